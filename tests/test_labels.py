"""What labels are taken for, and which are refused, at the limits."""

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from captum_hrcam.labels import check_classes, loss_per_sample, model_targets, target_rows

CE, BCE = "cross_entropy", "binary_cross_entropy"


@pytest.mark.parametrize("off", [5e-4, -5e-4])
def test_soft_rows_may_miss_1_by_rounding(off):
    rows = torch.tensor([[0.25, 0.75], [0.5, 0.5 + off]])
    torch.testing.assert_close(target_rows(rows, 2, 2, "cross_entropy"), rows.double())


@pytest.mark.parametrize("off", [0.01, -0.01])
def test_soft_rows_that_miss_1_by_a_hundredth_are_refused(off):
    rows = torch.tensor([[0.25, 0.75], [0.5, 0.5 + off]])
    with pytest.raises(ValueError, match="rows do not sum to 1"):
        target_rows(rows, 2, 2, "cross_entropy")
    torch.testing.assert_close(target_rows(rows, 2, 2, "binary_cross_entropy"), rows.double())


def test_soft_rows_of_a_coarse_dtype_may_miss_1_by_its_rounding():
    rows = torch.tensor([[0.25, 0.752], [0.5, 0.498]], dtype=torch.bfloat16)
    assert (rows.double().sum(1) - 1).abs().max() > 1e-3
    torch.testing.assert_close(target_rows(rows, 2, 2, CE), rows.double())


def test_pandas_rows_count_in_order_whatever_their_index():
    series = pd.Series([0, 2], index=[7, 0])
    assert target_rows(series, 2, 3, CE).tolist() == [[1, 0, 0], [0, 0, 1]]
    frame = pd.DataFrame({"a": [0, 1], "b": [1, 0]}, index=[3, 4])
    assert target_rows(frame, 2, 2, BCE).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("labels", [[0, 2], [0.0, 2.0], [[0], [2]]])
def test_indices_come_as_integers_whole_floats_or_a_column(labels):
    rows = target_rows(torch.tensor(labels), 2, 3, "cross_entropy")
    assert rows.tolist() == [[1, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("value", [-0.001, 1.001])
def test_labels_beyond_0_and_1_are_real_values(value):
    labels = torch.tensor([[0.0], [1.0], [value]])
    with pytest.raises(ValueError, match="expected 0 to 1"):
        target_rows(labels, 3, 1, "binary_cross_entropy")
    torch.testing.assert_close(target_rows(labels, 3, 1, "mse"), labels.double())


@pytest.mark.parametrize("value", [-1, torch.nan])
@pytest.mark.parametrize(("k", "head"), [(1, "the head"), (2, "a head for each label")])
def test_where_labels_are_missing_the_way_is_told(value, k, head):
    labels = torch.tensor([[0.0, 1.0], [1.0, value]])[:, -k:]
    with pytest.raises(ValueError, match=f"missing, fit {head} from the images that") as refused:
        target_rows(labels, 2, k, "binary_cross_entropy")
    assert "mse" not in str(refused.value)  # it would fit -1 as a value


def test_a_class_that_is_rare_is_fitted():
    check_classes(torch.tensor([1e-6, 1 - 1e-6]), "cross_entropy")
    check_classes(torch.tensor([0.0, 7.0]), "mse")


@pytest.mark.parametrize(
    ("mean", "loss", "message"),
    [
        ([0.5, 0, 0], CE, r"has class 1, 2 \(of 3, .*each\. Add samples, or use targets='model'"),
        ([0.5, 0.5, 0], CE, r"has class 2 \(of 3, .*, pass n_classes=2, or use targets='model'"),
        ([0.5, 0, 0.5], CE, r"has class 1 \(of 3, .*each\. Add samples, or use targets='model'"),
        ([1.0, 0], CE, r"has class 1; every sample has class 0 \(.*each\. Add samples, or use"),
        ([0.5, 0, 1, 0], BCE, r"has class 1, 3; every sample has class 2 \(.*\[:, kept\]"),
        ([1.0], BCE, r"^labels: every sample has class 0 \(of 1, .*each\. Add samples, or use"),
        ([0.5] + [0] * 9, CE, r"has class 1, 2, 3, 4, 5, 6, 7, 8, \.\.\. \(of 10"),
    ],
)
def test_classes_that_never_or_always_occur_are_refused_all_at_once(mean, loss, message):
    with pytest.raises(ValueError, match=message):
        check_classes(torch.tensor(mean), loss)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_the_models_own_targets_have_the_least_loss_for_its_scores(loss):
    scores = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    rows = model_targets(scores, loss)
    scores.requires_grad_(True)
    loss_per_sample(scores, rows, loss).sum().backward()
    torch.testing.assert_close(scores.grad, torch.zeros_like(scores), rtol=0, atol=1e-12)


def test_losses_are_torchs_summed_over_outputs():
    generator = torch.Generator().manual_seed(0)
    scores, rows = torch.randn(6, 3, generator=generator), torch.rand(6, 3, generator=generator)
    rows = rows / rows.sum(1, keepdim=True)
    expected = {
        "cross_entropy": F.cross_entropy(scores, rows, reduction="none"),
        "binary_cross_entropy": 3 * F.binary_cross_entropy_with_logits(scores, rows),
        "mse": 1.5 * F.mse_loss(scores, rows),
    }
    for loss, value in expected.items():
        torch.testing.assert_close(loss_per_sample(scores, rows, loss).mean(), value.mean())
