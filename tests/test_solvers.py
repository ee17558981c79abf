"""Heads from features, against closed forms and scikit-learn; balance and path."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from test_calibration import three_classes

from captum_hrcam import solvers
from captum_hrcam.features import Features
from captum_hrcam.labels import loss_per_sample
from captum_hrcam.moments import Moments
from captum_hrcam.pooling import gap, spatial_variance


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    return three_classes()


def ridge(x, y, loss, penalties):
    """All rows in two batches."""
    batches = list(zip(x.float().split(130), y.split(130), strict=True))
    return solvers.ridge(lambda: batches, len(x), loss, penalties)


def test_pattern_is_covariance_over_variance_of_all_cells_in_loops():
    generator = torch.Generator().manual_seed(0)
    y = torch.nn.functional.one_hot(torch.arange(20) % 3, 3).double()
    f = torch.randn(20, 4, 3, 2, generator=generator, dtype=torch.float64) * 3 + 1
    f[:, 0] += y[:, 0, None, None]
    z = gap(f)
    moments = Moments.of(z, y, spatial_variance(f, z))
    weight = solvers.pattern(moments) / moments.scale
    for c in range(3):
        for i in range(4):
            cells = np.array(
                [f[n, i, a, b].item() for n in range(20) for a in range(3) for b in range(2)]
            )
            labels = np.array([y[n, c].item() for n in range(20) for _ in range(6)])
            cov = np.mean((cells - cells.mean()) * (labels - labels.mean()))
            assert weight[c, i].item() == pytest.approx(cov / cells.var(), rel=1e-9)


def test_constant_feature_gets_no_weight():
    z, y = torch.randn(50, 3), torch.rand(50, 2)
    z[:, 1] = 7.0
    weight = solvers.pattern(Moments.of(z, y, torch.ones_like(z)))
    assert (weight[:, 1] == 0).all()
    assert (weight[:, 0] != 0).all()


def test_pattern_is_the_limit_of_ridge(data):
    x, y = data
    limit = ridge(x, y, "cross_entropy", [1e3])[0]
    pattern = solvers.pattern(Moments.of(x, y, torch.zeros_like(x)))
    pattern = pattern - pattern.mean(0)
    cosine = torch.nn.functional.cosine_similarity(limit.flatten(), pattern.flatten(), 0)
    assert cosine > 0.9999


@pytest.mark.parametrize("penalty", [1.0, 0.1, 0.01])
def test_ridge_is_scikit_learns_logistic_regression(data, penalty):
    x, y = data
    weight = ridge(x, y, "cross_entropy", [penalty])[0]
    peer = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-9, max_iter=5000)
    peer.fit(x.numpy(), y.argmax(1).numpy())
    np.testing.assert_allclose(weight, peer.coef_, atol=2e-3)


def test_ridge_on_real_values_is_scikit_learns_ridge(data):
    x, _ = data
    y = x @ torch.arange(12, dtype=torch.float64).reshape(6, 2) / 10 + torch.randn(200, 2).double()
    weight = ridge(x, y, "mse", [0.3])[0]
    peer = Ridge(alpha=0.3 * len(x)).fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(weight, peer.coef_, atol=1e-3)


@pytest.mark.parametrize("deviation", [1.0, 0.02])
@pytest.mark.parametrize("penalty", [1e3, 30.0, 1.0, 1e-3, 0.0])
def test_ridge_is_solved_however_strong_the_penalty_or_weak_the_features(data, penalty, deviation):
    """Averages of a small sign in a large image vary little beside the cells; classes uneven."""
    x, y = data[0] * deviation, data[1]
    x, y = x[y[:, 1] < 1], y[y[:, 1] < 1][:, [0, 2]]
    weight = ridge(x, y, "cross_entropy", [penalty])[0]
    # One row w for two of -w/2 and w/2, whose squares are half of its own.
    c = 2 / (penalty * len(x)) if penalty else np.inf
    peer = LogisticRegression(C=c, tol=1e-10, max_iter=5000)
    peer.fit(x.numpy(), y[:, 1].numpy())
    expected = peer.coef_[0] / 2 * np.array([[-1], [1]])
    # Without a penalty the sum is so flat that products in float32 round more than it falls.
    near = 1e-3 if penalty else 2e-2
    np.testing.assert_allclose(weight, expected, rtol=0, atol=near * np.abs(expected).max())


def test_warm_start_does_not_change_the_solution(data):
    x, y = data
    along = ridge(x, y, "cross_entropy", [10.0, 1.0, 0.1])
    for weight, penalty in zip(along, [10.0, 1.0, 0.1], strict=True):
        alone = ridge(x, y, "cross_entropy", [penalty])[0]
        torch.testing.assert_close(weight, alone, rtol=1e-2, atol=1e-3)


def test_path_takes_the_strongest_within_one_standard_error(data):
    x, y = data[0].float(), data[1]
    path = solvers.ridge_path(x[:150], y[:150], x[150:], y[150:], "cross_entropy")
    best = min(range(len(path.losses)), key=path.losses.__getitem__)
    limit = path.losses[best] + path.errors[best]
    chosen = path.penalties.index(path.chosen)
    assert path.losses[chosen] <= limit
    assert all(loss > limit for loss in path.losses[:chosen])
    assert path.rows()[0][0] == max(path.penalties)


def test_adam_reaches_the_unpenalised_minimum(data):
    x, y = data
    weight, bias = solvers.adam(
        Features(torch.zeros(200).bool(), x, y, torch.zeros(200, 0)),
        "cross_entropy",
        epochs=200,
        batch_size=50,
        lr=1e-2,
        seed=0,
    )
    peer = LogisticRegression(C=np.inf, max_iter=5000).fit(x.numpy(), y.argmax(1).numpy())
    ours = loss_per_sample(x @ weight.T + bias, y, "cross_entropy").mean()
    theirs = loss_per_sample(
        x @ torch.from_numpy(peer.coef_).T + torch.from_numpy(peer.intercept_), y, "cross_entropy"
    ).mean()
    assert ours < theirs + 0.01


def test_adam_leaves_the_random_state_of_all_devices(data, monkeypatch):
    x, y = data
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    before = torch.get_rng_state()
    rows = Features(torch.zeros(200).bool(), x, y, torch.zeros(200, 0))
    solvers.adam(rows, "cross_entropy", epochs=1, batch_size=200, lr=1e-3, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert not seeded


def test_adam_starts_from_the_default_initialisation_of_its_seed(data):
    x, y = data
    rows = Features(torch.zeros(200).bool(), x, y, torch.zeros(200, 0))
    options = {"epochs": 1, "batch_size": 200, "lr": 1e-12}
    torch.manual_seed(5)
    linear = torch.nn.Linear(6, 3)
    weight, bias = solvers.adam(rows, "cross_entropy", seed=5, **options)
    torch.testing.assert_close(weight.float(), linear.weight.detach())
    torch.testing.assert_close(bias.float(), linear.bias.detach())


def test_layer_norms():
    weight = torch.randn(3, 9, dtype=torch.float64)
    weight[:, 5:] = 0
    channels = {"a": 2, "b": 3, "c": 4}
    equal = weight * solvers.layer_norms(weight, channels, "equal", {})
    assert equal[:, :2].norm() == pytest.approx(1)
    assert equal[:, 2:5].norm() == pytest.approx(1)
    assert (equal[:, 5:] == 0).all()
    told = {"a": 0.25, "b": 1.0, "c": 0.0}
    informed = weight * solvers.layer_norms(weight, channels, "information", told)
    assert informed[:, :2].norm() == pytest.approx(0.5)
    assert informed[:, 2:5].norm() == pytest.approx(1)
    assert (solvers.layer_norms(weight, channels, None, {}) == 1).all()
