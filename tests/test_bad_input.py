"""Refused input: exception type, a message that names argument, value and remedy, nothing left."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from cases import TwoInputs
from conftest import BY_NAME, State, fit_quietly, fitted, training_batches
from torch import nn

from captum_hrcam import CAM, HRCAM, compare

CASE = BY_NAME["vgg2d"]
X, Y = torch.randn(12, 2, 8, 12), torch.arange(12) % 3


def replaced(labels: Any, **options: Any) -> Callable[[HRCAM], Any]:
    return lambda hrcam: hrcam.fit([(X, labels)], **options)


def with_value(tensor: torch.Tensor, value: float) -> torch.Tensor:
    tensor = tensor.clone().float()
    tensor.view(-1)[0] = value
    return tensor


class RunsTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.unused = nn.Conv2d(2, 2, 1), nn.ReLU(), nn.ReLU()
        self.pair, self.flat = Pair(), nn.Flatten()

    def forward(self, x):
        x, _ = self.pair(self.relu(self.conv(self.relu(x))))
        return self.flat(x)[:, :3]


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@dataclass
class Refused:
    """One row: what is done to a fitted HRCAM, and what it says."""

    name: str
    error: type[Exception]
    message: str
    call: Callable[[HRCAM], Any]


RUNS_TWICE, FOREIGN = RunsTwice(), nn.Conv2d(1, 1, 1)
NAN, INF = float("nan"), float("inf")
soft = torch.full((12, 3), 1 / 3)
ROWS = [
    # -- constructor
    Refused("no callable", TypeError, "forward_func: got int", lambda h: HRCAM(3, "a")),
    Refused(
        "data parallel",
        ValueError,
        r"got DataParallel.*forward_func\.module",
        lambda h: HRCAM(nn.DataParallel(CASE.model()), "module.stage1"),
    ),
    Refused(
        "unknown layer", ValueError, "no layer 'x'.*find_layers", lambda h: HRCAM(CASE.model(), "x")
    ),
    Refused(
        "foreign layer",
        ValueError,
        "Conv2d is not in the model",
        lambda h: HRCAM(CASE.model(), FOREIGN),
    ),
    Refused("no layer", ValueError, "empty list", lambda h: HRCAM(CASE.model(), [])),
    Refused(
        "layer twice",
        ValueError,
        "'stage1' is listed twice",
        lambda h: HRCAM(CASE.model(), ["stage1", "stage1"]),
    ),
    Refused(
        "reshape",
        TypeError,
        "reshape_transform: got int",
        lambda h: HRCAM(CASE.model(), "stage1", reshape_transform=3),
    ),
    # -- layers that cannot be read
    Refused(
        "layer never runs",
        RuntimeError,
        "'unused' did not run.*Choose a layer",
        lambda h: HRCAM(RUNS_TWICE, "unused").fit([(X, Y)]),
    ),
    Refused(
        "layer runs twice",
        RuntimeError,
        "'relu' ran more than once.*its block",
        lambda h: HRCAM(RUNS_TWICE, "relu").fit([(X, Y)]),
    ),
    Refused(
        "layer gives a tuple",
        TypeError,
        "'pair' gave tuple, expected one tensor",
        lambda h: HRCAM(RUNS_TWICE, "pair").fit([(X, Y)]),
    ),
    Refused(
        "layer without space",
        ValueError,
        r"'flat' gave a tensor of shape \(12, 192\).*reshape_tr",
        lambda h: HRCAM(RUNS_TWICE, "flat").fit([(X, Y)]),
    ),
    Refused(
        "layer without batch",
        ValueError,
        r"'conv' gave 2 feature maps for 12 images",
        lambda h: HRCAM(RUNS_TWICE, "conv", reshape_transform=lambda f: f.transpose(0, 1)).fit(
            [(X, Y)]
        ),
    ),
    # -- options of fit
    Refused("solver", ValueError, "solver: got 'lasso', expected", replaced(Y, solver="lasso")),
    Refused("loss", ValueError, "loss: got 'hinge', expected one of", replaced(Y, loss="hinge")),
    Refused("targets", ValueError, "targets: got 'masks', exp", replaced(Y, targets="masks")),
    Refused("balance", ValueError, "balance_layers: got 'x', exp", replaced(Y, balance_layers="x")),
    Refused(
        "negative penalty", ValueError, "penalty: got -1", replaced(Y, solver="ridge", penalty=-1)
    ),
    Refused(
        "NaN penalty", ValueError, "penalty: got nan", replaced(Y, solver="ridge", penalty=NAN)
    ),
    Refused("word as penalty", ValueError, "penalty: got 'x'", replaced(Y, penalty="x")),
    Refused(
        "penalty of pattern",
        ValueError,
        "penalty: got 0.1 with solver='pattern'",
        replaced(Y, solver="pattern", penalty=0.1),
    ),
    Refused(
        "balance of adam",
        ValueError,
        "balance_layers: got 'equal' with solver='adam'",
        replaced(Y, solver="adam", balance_layers="equal"),
    ),
    Refused(
        "balance of a cascade",
        ValueError,
        "balance_layers: got 'equal' with solver='cascade'",
        replaced(Y, solver="cascade", balance_layers="equal"),
    ),
    Refused(
        "cascade of real values",
        ValueError,
        "loss: got 'mse' with solver='cascade'",
        replaced(Y, solver="cascade", loss="mse"),
    ),
    Refused("passes", ValueError, "n_passes: got 0", replaced(Y, n_passes=0)),
    Refused("epochs", ValueError, "epochs: got 0", replaced(Y, solver="adam", epochs=0)),
    Refused("lr", ValueError, "lr: got nan", replaced(Y, solver="adam", lr=NAN)),
    Refused("classes", ValueError, "n_classes: got 0", replaced(Y, n_classes=0)),
    # -- data of fit
    Refused("empty loader", ValueError, "train_data: it gave no batch", lambda h: h.fit([])),
    Refused(
        "empty validation",
        ValueError,
        "val_data: it gave no batch",
        lambda h: h.fit([(X, Y)], val_data=[]),
    ),
    Refused(
        "few images",
        ValueError,
        "train_data: got 3 images, expected at least 5",
        lambda h: h.fit([(X[:3], Y[:3])]),
    ),
    Refused("no label", TypeError, "a batch holds 1 item.*targets='model'", lambda h: h.fit([X])),
    Refused(
        "no tensor",
        TypeError,
        "got inputs list",
        lambda h: h.fit([([1, 2], Y)]),
    ),
    Refused(
        "other size",
        ValueError,
        r"of input 0 is \(2, 4, 4\) in one batch.*one size",
        lambda h: h.fit([(X, Y), (X[:, :, :4, :4], Y)]),
    ),
    Refused(
        "NaN in inputs",
        ValueError,
        "NaN or infinity in the pooled features",
        lambda h: h.fit([(with_value(X, NAN), Y)]),
    ),
    Refused(
        "infinity in inputs",
        ValueError,
        "NaN or infinity in the pooled features",
        lambda h: h.fit([(with_value(X, INF), Y)]),
    ),
    Refused("label too large", ValueError, r"labels: 3 is outside 0\.\.2", replaced(Y + 1)),
    Refused("label negative", ValueError, r"labels: -1 is outside 0\.\.2", replaced(Y - 1)),
    Refused("label not whole", ValueError, "non-integer.*loss='mse'", replaced(Y + 0.5)),
    Refused("label NaN", ValueError, "labels: NaN or infinity", replaced(with_value(Y, NAN))),
    Refused("labels too few", ValueError, "for a batch of 12 images", replaced(Y[:5])),
    Refused("label of a word", TypeError, "labels: got str", replaced("abc")),
    Refused("rows too narrow", ValueError, r"expected \(12, 3\)", replaced(torch.ones(12, 2) / 2)),
    Refused("rows do not sum", ValueError, "do not sum to 1", replaced(soft * 2)),
    Refused(
        "probabilities beyond 1",
        ValueError,
        "values from 0 to 2",
        replaced(Y[:, None] * torch.ones(12, 3), loss="binary_cross_entropy"),
    ),
    Refused(
        "real label NaN",
        ValueError,
        "labels: NaN or infinity",
        replaced(with_value(soft, NAN), loss="mse"),
    ),
    Refused("one class", ValueError, "class 1 has no sample", replaced(Y * 0)),
    Refused("absent class", ValueError, "class 2 has no sample", replaced(Y % 2)),
    # -- attribute
    Refused(
        "not fitted",
        RuntimeError,
        "no head yet: call fit or load",
        lambda h: HRCAM(CASE.model(), "stage1").attribute(X, 1),
    ),
    Refused("fusion", ValueError, "fusion: got 'max'", lambda h: h.attribute(X, 1, fusion="max")),
    Refused(
        "interpolation",
        ValueError,
        "interpolate_mode: got 'trilinear'",
        lambda h: h.attribute(X, 1, interpolate_mode="trilinear"),
    ),
    Refused(
        "threshold",
        ValueError,
        "evidence_threshold: got nan",
        lambda h: h.attribute(X, 1, fusion="evidence", evidence_threshold=NAN),
    ),
    Refused(
        "no image",
        ValueError,
        r"inputs: got shape \(0, 2, 8, 12\)",
        lambda h: h.attribute(X[:0], torch.tensor([])),
    ),
    Refused(
        "no pixel",
        ValueError,
        r"inputs: got shape \(12, 2, 0, 12\)",
        lambda h: h.attribute(X[:, :, :0], 1),
    ),
    Refused(
        "vector among inputs",
        ValueError,
        r"shape \(12, 5\).*additional_forward_args",
        lambda h: h.attribute((X, torch.ones(12, 5)), 1),
    ),
    Refused(
        "batches of two sizes",
        ValueError,
        "got batches of 12 and 4",
        lambda h: h.attribute((X, X[:4]), 1),
    ),
    Refused(
        "other channels",
        ValueError,
        "'stage1' gave 4 channels, but the head has weights for 5",
        lambda h: other_channels().attribute(X, 1),
    ),
    # -- CAM, compare
    Refused(
        "CAM evidence",
        ValueError,
        "'evidence' needs.*CAM has none",
        lambda h: CAM(CASE.model(), "stage3").attribute(X, 1, fusion="evidence"),
    ),
    Refused(
        "CAM classifier",
        TypeError,
        "classifier: got MaxPool2d",
        lambda h: CAM(CASE.model(), "stage3", "pool1"),
    ),
    Refused(
        "CAM of another layer",
        ValueError,
        "'stage1' gave 4 channels.*weights for 8",
        lambda h: CAM(CASE.model(), "stage1").attribute(X, 1),
    ),
    Refused("no method", ValueError, "methods: got none", lambda h: compare([], X, 1)),
    Refused("method", TypeError, "'a' is int", lambda h: compare({"a": 3}, X, 1)),
    Refused(
        "method's map",
        ValueError,
        r"'a' gave shape \(12,\)",
        lambda h: compare({"a": lambda x, **_: x.mean((1, 2, 3))}, X, 1),
    ),
    Refused(
        "method's result",
        TypeError,
        "'a' gave float",
        lambda h: compare({"a": lambda x, **_: 1.0}, X, 1),
    ),
]


def other_channels() -> HRCAM:
    hrcam = fitted(CASE)
    hrcam.head.weights["stage1"] = torch.zeros(3, 5)
    return hrcam


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_refused(row):
    hrcam = fitted(CASE)
    expected = hrcam.attribute(X, 1)
    state = State(hrcam.forward_func)
    with pytest.raises(row.error, match=row.message):
        row.call(hrcam)
    state.assert_unchanged()
    assert torch.equal(hrcam.attribute(X, 1), expected)


def test_one_output_and_softmax():
    model = nn.Sequential(
        CASE.model().stage1, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)
    )
    with pytest.raises(ValueError, match=r"loss: got 'cross_entropy' for a model of one output"):
        HRCAM(model, "0").fit([(X, Y)])


def test_output_that_is_no_row_of_scores():
    class Dictionary(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = CASE.model()

        def forward(self, x):
            return {"scores": self.inner(x)}

    hrcam = HRCAM(Dictionary(), "inner.stage1")
    with pytest.raises(ValueError, match="n_classes: the model's output is no row"):
        hrcam.fit([(X, Y)])
    with pytest.raises(ValueError, match="targets: 'model' needs a model whose output"):
        hrcam.fit([X], targets="model")
    fit_quietly(hrcam, [(X, Y)], n_classes=3)
    assert hrcam.attribute(X, 2).shape == (12, 1, 8, 12)


def test_two_inputs_of_other_counts():
    with pytest.raises(ValueError, match="train_data: a batch's inputs must hold the same images"):
        HRCAM(TwoInputs(), "conv1").fit([(X, torch.randn(4, 1, 3, 3), Y)])


def test_last_batch_of_one_and_one_pixel_are_fine():
    case = BY_NAME["depthwise2d"]
    batches = [*training_batches(case), (torch.randn(1, 2, *case.size), torch.tensor([0]))]
    hrcam = fit_quietly(HRCAM(case.model(), case.layers), batches)
    assert hrcam.attribute(torch.randn(1, 2, 1, 1), 1).shape == (1, 1, 1, 1)
