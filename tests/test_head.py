"""The head's algebra, against plain formulas."""

import pytest
import torch

from captum_hrcam.head import Head, centre, fold, for_classes, split_layers


@pytest.fixture
def head() -> Head:
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    return Head(
        {"a": random(3, 4), "b": random(3, 2)},
        random(3),
        {"a": random(3), "b": random(3)},
        {"a": random(3), "b": random(3)},
        centred=True,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_are_those_of_the_concatenated_averages(head, dtype):
    z = {"a": torch.randn(5, 4, dtype=dtype), "b": torch.randn(5, 2, dtype=dtype)}
    weight = torch.cat([head.weights["a"], head.weights["b"]], 1)
    expected = torch.cat([z["a"], z["b"]], 1).double() @ weight.T + head.bias
    scores = head.scores(z)
    assert scores.dtype == dtype
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head.scores(z), scores)
    assert head.n_outputs == 3


def test_scores_of_layers_of_two_dtypes_are_in_the_firsts(head):
    z = {"a": torch.randn(5, 4), "b": torch.randn(5, 2, dtype=torch.float64)}
    expected = head.scores({name: value.double() for name, value in z.items()})
    assert head.scores(z).dtype == torch.float32
    torch.testing.assert_close(head.scores(z).double(), expected, rtol=1e-5, atol=1e-5)


def test_other_names_for_the_same_layers_in_order(head):
    other = head.renamed(["x", "y"])
    for field in ("weights", "mean_score", "spread"):
        assert list(getattr(other, field)) == ["x", "y"]
        assert torch.equal(getattr(other, field)["x"], getattr(head, field)["a"])
        assert torch.equal(getattr(other, field)["y"], getattr(head, field)["b"])
    assert torch.equal(other.bias, head.bias)
    assert other.centred
    with pytest.raises(ValueError, match="zip"):
        head.renamed(["x"])


def test_a_bare_head_is_not_centred():
    head = Head({"a": torch.ones(1, 1)}, torch.ones(1))
    assert head.centred is False
    assert (head.mean_score, head.spread) == ({}, {})


def test_rows_for_classes():
    weight = torch.arange(12).reshape(4, 3)
    assert torch.equal(for_classes(weight, None), weight)
    assert torch.equal(for_classes(weight, torch.tensor([2])), weight[2:3])
    assert torch.equal(for_classes(weight, torch.tensor([2, 0])), weight[[2, 0]].reshape(2, 1, 3))
    assert torch.equal(for_classes(weight[:, 0], torch.tensor([3, 1])), torch.tensor([[9], [3]]))


def test_fold_moves_the_standardisation_into_the_weights():
    z, weight, bias = torch.randn(7, 4), torch.randn(3, 4), torch.randn(3)
    mean, scale = torch.randn(4), torch.rand(4) + 0.5
    folded, shifted = fold(weight, bias, mean, scale)
    expected = (z - mean) / scale @ weight.T + bias
    torch.testing.assert_close(z @ folded.T + shifted, expected, rtol=1e-4, atol=1e-5)


def test_centre_leaves_the_softmax():
    z, weight, bias = torch.randn(7, 4), torch.randn(3, 4), torch.randn(3)
    centred, shifted = centre(weight, bias)
    before, after = (z @ weight.T + bias).softmax(1), (z @ centred.T + shifted).softmax(1)
    torch.testing.assert_close(after, before)
    torch.testing.assert_close(centred.sum(0), torch.zeros(4), rtol=0, atol=1e-6)
    assert shifted.sum().abs() < 1e-6


def test_split_layers_are_the_columns_in_order():
    weight = torch.arange(10.0).reshape(2, 5)
    parts = split_layers(weight, {"a": 3, "b": 2})
    assert list(parts) == ["a", "b"]
    assert torch.equal(parts["a"], weight[:, :3])
    assert torch.equal(parts["b"], weight[:, 3:])
    assert all(part.is_contiguous() for part in parts.values())
