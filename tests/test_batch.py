"""Batches taken apart, and what a model gives as rows of scores."""

import pytest
import torch

from captum_hrcam.batch import score_rows, split_batch

NUMBERS = [0, 1, 2]
X, OVER, ROWS, LABELS = (torch.rand(3, *shape) for shape in ((2, 4, 4), (1, 4), (5,), ()))


@pytest.mark.parametrize(
    ("targets", "batch", "n_inputs", "labels"),
    [
        ("labels", (X, LABELS), 1, LABELS),
        ("labels", [X, OVER, ROWS], 2, ROWS),
        ("labels", (X, LABELS, NUMBERS), 2, NUMBERS),  # one number beside each image
        ("model", X, 1, None),
        ("model", (X,), 1, None),
        ("model", (X, LABELS), 1, None),
        ("model", (X, ROWS), 1, None),
        ("model", (X, NUMBERS), 1, None),
        ("model", (X, OVER), 2, None),
        ("model", (X, OVER, LABELS), 2, None),
        ("model", (X, ROWS, OVER), 3, None),
        ("model", (ROWS,), 1, None),
    ],
)
def test_inputs_and_labels(targets, batch, n_inputs, labels):
    inputs, found = split_batch(batch, "data", targets)
    given = [batch] if isinstance(batch, torch.Tensor) else list(batch)
    assert len(inputs) == n_inputs
    assert all(torch.equal(x, g) for x, g in zip(inputs, given, strict=False))
    assert found is labels


@pytest.mark.parametrize("label", [2, 2.0, torch.tensor(2)])
def test_one_sample_is_no_batch(label):
    with pytest.raises(TypeError, match=r"data: it gave one sample, with the label .*2.*Data"):
        split_batch((X[0], label), "data", "labels")


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        ((LABELS, LABELS), r"inputs a tensor \(3,\)"),  # numbers alone are no images
        ((X, torch.tensor(1.0), LABELS), r"inputs a tensor \(3, 2, 4, 4\), a tensor \(\)"),
        ((X[:0], LABELS[:0]), r"inputs a tensor \(0, 2, 4, 4\)"),
        ((X, NUMBERS, LABELS), r"inputs a tensor \(3, 2, 4, 4\), a list of 3"),
    ],
)
def test_what_is_no_image(batch, told):
    with pytest.raises(TypeError, match=rf"data: a batch must be .* got {told}\."):
        split_batch(batch, "data", "labels")


@pytest.mark.parametrize("names", [["a.png", "b.png", "c.png"], ("a.png",) * 3, "a.png"])
def test_text_is_no_label(names):
    with pytest.raises(TypeError, match=r"data: the last item .* text, .*a\.png.*collate_fn"):
        split_batch((X, LABELS, names), "data", "labels")
    inputs, _ = split_batch((X, names), "data", "model")  # where a last item is left out anyway
    assert len(inputs) == 1


def test_an_empty_batch_without_labels():
    with pytest.raises(TypeError, match="got inputs nothing"):
        split_batch((), "data", "model")


@pytest.mark.parametrize(
    ("output", "n", "shape"),
    [
        (ROWS, 3, (3, 5)),
        (ROWS.half(), 3, (3, 5)),
        (LABELS, 3, (3, 1)),
        (ROWS[:, :, None], 3, (3, 5)),  # of a convolution as classifier
        (ROWS[0], 1, (1, 5)),  # a batch of one, squeezed away
        (LABELS[0], 1, (1, 1)),
        (X, 3, (3, 0)),
        (LABELS[0], 3, (3, 0)),
        (ROWS, 1, (1, 0)),  # not of this image
        (ROWS[0], 3, (3, 0)),
        (ROWS.long(), 3, (3, 0)),  # decisions, not scores
        ({"logits": ROWS}, 3, (3, 0)),
    ],
)
def test_scores_are_rows(output, n, shape):
    rows = score_rows(output, n)
    assert rows.shape == shape
    assert rows.dtype == torch.float32
    if rows.numel():
        assert torch.equal(rows.flatten(), output.flatten().float())
