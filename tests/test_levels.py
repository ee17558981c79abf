"""Whole maps raised and lowered to tell the class: against scipy, and by what must not change."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import fit_quietly
from scipy.optimize import minimize
from scipy.special import expit, log_softmax
from test_cascade import Squares, squares
from torch import nn

from captum_hrcam import HRCAM, levels
from captum_hrcam.features import Features
from captum_hrcam.labels import loss_per_sample
from captum_hrcam.levels import STRENGTH, levelled
from captum_hrcam.moments import Moments

LOSSES = ["cross_entropy", "binary_cross_entropy"]
UNUSED = 4


def rows(n: int = 150, seed: int = 0) -> tuple[Features, Moments]:
    """Two classes, five features: the first two vary widely inside images and tell the class
    poorly, the next two are flat and tell it well; the last tells it, too, but is not used."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, n)
    away = 2 * label[:, None] - 1
    z = rng.normal(0, 1, (n, 5)) + away * [0.4, -0.3, 0.9, -0.8, 1.0] + 3
    y = F.one_hot(torch.from_numpy(label), 2).double()
    within = torch.tensor([9.0, 9.0, 0.2, 0.2, 0.2]).expand(n, 5)
    features = Features(torch.zeros(n, dtype=torch.bool), torch.from_numpy(z), y, y[:, :0])
    return features, Moments.of(features.z, y, within)


def start(moments: Moments) -> tuple[torch.Tensor, torch.Tensor]:
    """A head that hardly uses the flat features."""
    weight = torch.tensor([[-0.5, 0.5, -0.05, 0.05, 0.0], [0.6, -0.4, 0.05, -0.05, 0.0]]).double()
    return weight, -weight @ moments.mean_z


def objective(features, moments, weight, change, a, d, loss) -> float:
    """The docstring's sum, in numpy; features in deviations."""
    deviation = moments.deviation.numpy()
    standard = weight.numpy() * deviation
    size = np.linalg.norm(standard, axis=1, keepdims=True)
    x = (features.z.numpy() - moments.mean_z.numpy()) / deviation
    scores = (x @ (standard + change).T) * a + d
    y, n = features.y.numpy(), len(x)
    if loss == "cross_entropy":
        soft = (n * y + y.mean(0)) / (n + 1)
        losses = -(soft * log_softmax(scores, 1)).sum(1)
    else:
        soft = (n * y + 0.5) / (n + 1)
        losses = -(soft * np.log(expit(scores)) + (1 - soft) * np.log(expit(-scores))).sum(1)
    return losses.mean() + STRENGTH / 2 * ((change / size) ** 2).sum()


@pytest.mark.parametrize("loss", LOSSES)
def test_is_the_least_that_scipy_finds(loss):
    features, moments = rows()
    weight, bias = start(moments)
    ours, our_bias = levelled(weight, bias, features, moments, loss)

    k = 1 if loss == "cross_entropy" else 2  # temperatures

    def value(p: np.ndarray) -> float:
        change, log_a, d = np.split(p, [8, 8 + k])
        change = np.insert(change.reshape(2, 4), UNUSED, 0, 1)
        return objective(features, moments, weight, change, np.exp(log_a), d, loss)

    change, log_a, d = np.split(minimize(value, np.zeros(10 + k), tol=1e-12).x, [8, 8 + k])
    change = np.insert(change.reshape(2, 4), UNUSED, 0, 1) / moments.deviation.numpy()
    expected = (weight.numpy() + change) * np.exp(log_a)[:, None]
    np.testing.assert_allclose(ours, expected, atol=2e-3)
    np.testing.assert_allclose(our_bias, d - expected @ moments.mean_z.numpy(), atol=1e-2)
    after, before = (
        loss_per_sample(features.scores(*linear), features.y, loss).mean()
        for linear in ((ours, our_bias), (weight, bias))
    )
    assert after < before - 0.02


@pytest.mark.parametrize("loss", LOSSES)
def test_the_change_falls_on_features_that_are_flat_inside_images(loss):
    features, moments = rows()
    weight, bias = start(moments)
    ours, _ = levelled(weight, bias, features, moments, loss)
    a = ours[:, 0] / weight[:, 0]
    in_deviations = (ours / a[:, None] - weight) * moments.deviation
    assert (in_deviations[:, 2:4].abs().amin(1) > 3 * in_deviations[:, :2].abs().amax(1)).all()
    assert not ours[:, UNUSED].any()


def test_a_class_without_weights_keeps_none():
    features, moments = rows()
    weight, bias = start(moments)
    weight[1] = 0
    ours, our_bias = levelled(weight, bias, features, moments, "binary_cross_entropy")
    assert ours[0].any()
    assert not ours[1].any()
    assert torch.isfinite(our_bias).all()


def test_separable_data_keep_finite_scores():
    features, moments = rows()
    features.z[:, 2] = features.y[:, 1]
    moments = Moments.of(features.z, features.y, torch.full_like(features.z, 0.1))
    weight = torch.tensor([[0.0, 0, -1, 0.1, 0], [0.0, 0, 1, 0.1, 0]]).double()
    linear = levelled(weight, -weight @ moments.mean_z, features, moments, "cross_entropy")
    scores = features.scores(*linear)
    assert scores.abs().max() < 30
    assert (scores.argmax(1) == features.y.argmax(1)).all()


class Alarm(Squares):
    """Its deepest layer also sounds an alarm for each channel, the same in all cells."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Identity()

    def forward(self, x):
        coarse = self.coarse(self.middle(self.fine(x)))
        alarm = x[:, :2].amax((2, 3), keepdim=True).expand(-1, -1, *coarse.shape[2:])
        return self.fc(self.deep(torch.cat([coarse, alarm], 1))[:, :3].mean((2, 3)))


def exposed(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Squares under an exposure of each channel, so that its mean hardly tells the class."""
    x, y, _ = squares(n, seed)
    return x + 0.15 * torch.randn(n, 3, 1, 1, generator=torch.Generator().manual_seed(seed)), y


@pytest.mark.parametrize("loss", LOSSES)
def test_maps_stay_and_scores_gain(loss, monkeypatch):
    x, y = exposed(300, 0)
    x_new, y_new = exposed(100, 1)
    targets = F.one_hot(y_new, 2).double()
    maps, losses = [], []
    for strength in (STRENGTH, 1e12):
        monkeypatch.setattr(levels, "STRENGTH", strength)
        hrcam = HRCAM(Alarm(), ["fine", "middle", "deep"])
        fit_quietly(hrcam, [(x, F.one_hot(y, 2))], loss=loss, solver="cascade")
        maps.append(hrcam.attribute(x_new, y_new).flatten(1))
        losses.append(loss_per_sample(hrcam.predict(x_new).double(), targets, loss).mean())
    inside = [m - m.mean(1, keepdim=True) for m in maps]
    assert F.cosine_similarity(*inside).min() > 0.95
    assert losses[0] < 0.97 * losses[1]


def test_no_label_fades_because_nothing_tells_it():
    """In this draw, two labels at random stand beside the class."""
    x, y = exposed(120, 3)
    at_random = torch.randint(2, (120, 2), generator=torch.Generator().manual_seed(3))
    labels = torch.cat([y[:, None], at_random], 1)
    model = Squares()
    model.fc = nn.Linear(3, 3)
    hrcam = HRCAM(model, ["fine", "middle", "coarse"])
    options = {"loss": "binary_cross_entropy", "solver": "cascade"}
    fit_quietly(hrcam, [(x, labels)], **options)
    sizes = torch.cat(list(hrcam.weights.values()), 1).norm(dim=1)
    assert sizes.min() > sizes.max() / 1000
