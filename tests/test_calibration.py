"""Temperatures and biases, against scipy and by what must hold at the minimum."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

from captum_hrcam.calibration import LOWEST, rescale, softened
from captum_hrcam.labels import loss_per_sample


def three_classes() -> tuple[torch.Tensor, torch.Tensor]:
    """Standardised features (200, 6) and one-hot classes (200, 3) that depend on two of them."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    x = (x - x.mean(0)) / x.std(0, correction=0)
    noise = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    classes = (torch.stack([x[:, 0], x[:, 1], -x[:, 0]], 1) + noise).argmax(1)
    return x, torch.nn.functional.one_hot(classes, 3).double()


def drawn(k: int, n: int = 300, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (n, k) on scales far apart, each of which tells its class more or less well, and
    one-hot classes. With two classes or more, the last one's score speaks against it."""
    rng = np.random.default_rng(seed)
    y = np.eye(k)[np.arange(n) % k] if k > 1 else (np.arange(n) % 2)[:, None].astype(float)
    told = rng.uniform(0.3, 1.5, k) * np.where((np.arange(k) == k - 1) & (k > 1), -1, 1)
    scores = (y * told + rng.normal(0, 1, (n, k))) * 10 ** rng.uniform(-1, 1, k) + 5
    return torch.from_numpy(scores), torch.from_numpy(y)


def least(scores: torch.Tensor, y: torch.Tensor, loss: str, *, shared: bool) -> float:
    """The smallest loss that scipy finds, with temperatures of at least LOWEST."""
    s, soft = scores.numpy(), softened(y, y, loss).numpy()
    k = s.shape[1]
    m, unit = (1, s.std(0).mean()) if shared else (k, s.std(0))

    def value(x: np.ndarray) -> float:
        moved = (s - s.mean(0)) / unit * x[:m] + x[m:]
        if loss == "cross_entropy":
            return -(soft * log_softmax(moved, 1)).sum(1).mean()
        return -(soft * np.log(expit(moved)) + (1 - soft) * np.log(expit(-moved))).sum(1).mean()

    bounds = [(LOWEST, None)] * m + [(None, None)] * k
    start = np.concatenate([np.ones(m), np.zeros(k)])
    options = {"ftol": 1e-14, "gtol": 1e-9, "maxiter": 5000, "maxfun": 10**6}
    return minimize(value, start, method="L-BFGS-B", bounds=bounds, options=options).fun


def reached(scores, y, loss, a, d) -> float:
    return loss_per_sample(scores * a + d, softened(y, y, loss), loss).mean().item()


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "mse"])
def test_rescale_finds_the_best_temperature_and_bias(loss):
    x, y = three_classes()
    scores = x[:, :3] * 0.01 + 5
    a, d = rescale(scores, y, loss)
    assert (a >= 0).all()

    def value(a, d):
        return loss_per_sample(scores * a + d, y, loss).mean().item()

    best = value(a, d)
    for factor in (0.8, 1.25):
        shifted = d + (1 - factor) * a * scores.mean(0)  # turn around the mean: only steeper
        assert value(a * factor, shifted) > best - 1e-3
    for k in range(3):
        for step in (-0.3, 0.3):
            moved = d.clone()
            moved[k] += step
            assert value(a, moved) > best - 1e-3


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize(
    ("loss", "per_class"),
    [("cross_entropy", False), ("binary_cross_entropy", False), ("binary_cross_entropy", True)],
)
def test_reaches_the_least_that_scipy_finds(loss, per_class, k):
    scores, y = drawn(k)
    a, d = rescale(scores, y, loss, per_class=per_class)
    assert (a >= 0).all()
    best = least(scores, y, loss, shared=loss == "cross_entropy")
    if per_class and k > 1:  # a class that is told wrongly keeps a hundredth
        moves = a * scores.std(0, correction=0)
        assert moves[-1].item() == pytest.approx(moves.max().item() / 100)
        assert best < reached(scores, y, loss, a, d) < best + 0.05
    else:
        assert reached(scores, y, loss, a, d) == pytest.approx(best, abs=1e-7)


@pytest.mark.parametrize("k", [2, 5, 12])
def test_classes_apart_reach_the_least_that_scipy_finds(k):
    scores, y = drawn(k, 100 * k)
    scores[:, -1] *= -1  # now all scores speak for their classes
    scores = scores / scores.std(0, correction=0)
    a, d = rescale(scores, y, "cross_entropy", per_class=True)
    best = least(scores, y, "cross_entropy", shared=False)
    assert reached(scores, y, "cross_entropy", a, d) == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_a_hundred_classes_are_solved_to_the_end(loss):
    """Nothing is left of the slope in any temperature or bias that is free."""
    scores, y = drawn(100, 1000)
    a, d = (v.requires_grad_() for v in rescale(scores, y, loss, per_class=True))
    moves = (a * scores.std(0, correction=0)).detach()
    at_least = moves <= moves.max() / 99.9
    of_loss = loss_per_sample(scores * a + d, softened(y, y, loss), loss).mean()
    slope_a, slope_d = torch.autograd.grad(of_loss, [a, d])
    slope_a = slope_a * a.detach()
    assert slope_d.abs().max() < 1e-5
    assert slope_a[~at_least].abs().max() < 1e-5
    assert (slope_a[at_least] > -1e-5).all()
    assert at_least.sum() in range(1, 20)


def test_classes_apart_have_each_their_own_scale_and_none_vanishes():
    x, y = three_classes()
    scores = torch.stack([x[:, 0], 100 * x[:, 1], -x[:, 5]], 1)  # the last tells nothing
    shared, _ = rescale(scores, y, "cross_entropy")
    assert (shared == shared[0]).all()
    a, d = rescale(scores, y, "cross_entropy", per_class=True)
    assert a[0] > 10 * a[1]
    moves = a * scores.std(0, correction=0)
    assert moves.min() >= moves.max() / 105  # a hundredth of the largest without this bound
    shares = (scores * a + d).softmax(1).mean(0)  # as with the best biases for these scales
    torch.testing.assert_close(shares, y.mean(0), rtol=1e-4, atol=1e-5)
    better = loss_per_sample(scores * a + d, y, "cross_entropy").mean()
    _, shared_d = rescale(scores, y, "cross_entropy")
    assert better < loss_per_sample(scores * shared + shared_d, y, "cross_entropy").mean()


def test_scores_that_tell_nothing_become_the_shares_of_the_classes():
    y = torch.eye(3)[[0] * 8 + [1, 2]].double()
    _, d = rescale(torch.zeros(10, 3), y, "cross_entropy")
    torch.testing.assert_close(d.softmax(0), y.mean(0), rtol=1e-4, atol=1e-5)


def test_real_values_of_constant_scores_are_their_mean():
    y = torch.randn(10, 2, generator=torch.Generator().manual_seed(0)).double()
    scores = torch.stack([torch.full((10,), 3.0), torch.arange(10.0)], 1)
    a, d = rescale(scores, y, "mse")
    assert a[0] == 0
    torch.testing.assert_close(d[0], y[:, 0].mean())
    slope, intercept = np.polyfit(np.arange(10), y[:, 1].numpy(), 1)
    assert [a[1].item(), d[1].item()] == pytest.approx([slope, intercept])


@pytest.mark.parametrize(("size", "is_told"), [(1e-8, False), (1e-4, True)])
def test_rounding_is_not_made_a_score_of_classes_apart(size, is_told):
    """Of two classes that the signs tell without an error."""
    y = torch.eye(2).double().repeat(20, 1)
    a, d = rescale(size * (2 * y - 1), y, "cross_entropy", per_class=True)
    scores = size * (2 * y - 1) * a + d
    assert (scores.std(0) > 1e-2).all() == is_told


def test_separable_classes_keep_a_finite_temperature():
    y = torch.nn.functional.one_hot(torch.arange(40) % 2, 2).double()
    a, d = rescale(y * 2 - 1, y, "cross_entropy")
    assert torch.isfinite(a).all()
    assert torch.isfinite(d).all()
    assert a.max() < 1e3


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_scores_that_all_mislead_leave_no_blank_head(loss, per_class):
    scores, y = drawn(2)
    scores[:, 0] *= -1  # as the last one already does
    a, _ = rescale(scores, y, loss, per_class=per_class)
    assert (a > 0).all()


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("off", [1e-7, 1e-4, 9e-4])
def test_rows_that_sum_to_almost_one_are_as_good_as_others(off, per_class):
    """A softmax's biases only differ: with rows that miss 1, all would run away together."""
    scores, y = drawn(3)
    soft = 0.8 * y + 0.2 / 3
    a, d = rescale(scores, soft * (1 - off), "cross_entropy", per_class=per_class)
    expected_a, expected_d = rescale(scores, soft, "cross_entropy", per_class=per_class)
    torch.testing.assert_close(a, expected_a, rtol=1e-3, atol=0)
    torch.testing.assert_close(d, expected_d, rtol=1e-3, atol=1e-3)
