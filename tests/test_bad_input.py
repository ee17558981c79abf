"""Refused input: exception type, a message that names argument, value and remedy, nothing left.

Here is what goes into a constructor, a fit, a map, a file, a comparison. The tables of what else is
refused lie with their subject: ``test_evaluation_batches``, ``test_metrics_inputs``,
``test_datasets_*``, ``test_finding``, ``test_faithfulness_*``, and of damaged files in
``test_storage``.
"""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import TwoInputs
from conftest import BY_NAME, State, fit_quietly, fitted, training_batches
from torch import nn

from captum_hrcam import CAM, HRCAM, compare, evaluate

CASE = BY_NAME["vgg2d"]
FILE = Path(__file__).parent / "fixtures" / "head_v1.safetensors"
X = torch.randn(12, 2, 8, 12, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3
NAN, INF = float("nan"), float("inf")


class RunsTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.unused = nn.Conv2d(2, 2, 1), nn.ReLU(), nn.ReLU()
        self.pair, self.flat = Pair(), nn.Flatten()

    def forward(self, x):
        x, _ = self.pair(self.relu(self.conv(self.relu(x))))
        return self.flat(x)[:, :3]


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Interrupted(nn.Module):
    """Stopped by the user in its third forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.passes = CASE.model(), 0

    def forward(self, x):
        self.passes += 1
        if self.passes % 3 == 0:
            raise KeyboardInterrupt
        return self.inner(x)


WITHOUT_BIAS = nn.Sequential(
    nn.Conv2d(2, 4, 3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
)


class ChannelsLast(nn.Module):
    """As ConvNeXt's and Swin's blocks are inside; fewer channels than the image is wide."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(2, 5, 2, 2), nn.Linear(5, 3)
        self.block = nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 10), nn.GELU(), nn.Linear(10, 5))

    def forward(self, x):
        return self.fc(self.block(self.stem(x).movedim(1, -1)).mean((1, 2)))


GIVES_NAN = copy.deepcopy(WITHOUT_BIAS)
GIVES_NAN[-1].bias.data.fill_(NAN)
RUNS_TWICE, TWO_INPUTS, FOREIGN = RunsTwice(), TwoInputs(), nn.Conv2d(1, 1, 1)
INTERRUPTED = Interrupted().train()
TRAINED, CHANNELS_LAST = CASE.model().train(), ChannelsLast()


def built(layer: Any, model: Any = None, **options: Any) -> Callable[[HRCAM], Any]:
    return lambda hrcam: HRCAM(CASE.model() if model is None else model, layer, **options)


def fit(data: Any, **options: Any) -> Callable[[HRCAM], Any]:
    return lambda hrcam: hrcam.fit(data, **options)


def labels(y: Any, **options: Any) -> Callable[[HRCAM], Any]:
    return fit([(X, y)], **options)


def layer(name: str, **options: Any) -> Callable[[HRCAM], Any]:
    return lambda hrcam: HRCAM(RUNS_TWICE, name, **options).fit([(X, Y)])


def attribute(inputs: Any, target: Any = 1, **options: Any) -> Callable[[HRCAM], Any]:
    return lambda hrcam: hrcam.attribute(inputs, target, **options)


def load(path: Path = FILE, model: Any = None, layer: Any = None) -> Callable[[HRCAM], Any]:
    return lambda hrcam: HRCAM.load(path, CASE.model() if model is None else model, layer)


def breaks_after(error: BaseException) -> Callable[[HRCAM], Any]:
    def batches() -> Iterator[Any]:
        yield from training_batches(CASE)[:2]
        raise error

    return lambda hrcam: hrcam.fit(batches())


def with_value(tensor: torch.Tensor, value: float) -> torch.Tensor:
    tensor = tensor.clone().float()
    tensor.view(-1)[0] = value
    return tensor


def other_channels(hrcam: HRCAM) -> Any:
    narrow = fitted(CASE)
    narrow.head.weights["stage1"] = torch.zeros(3, 5)
    return narrow.attribute(X, 1)


SOFT = torch.full((12, 3), 1 / 3)
CONSTRUCTOR = {
    "no callable": (TypeError, "forward_func: got int, expected a model", built("a", 3)),
    "data parallel": (
        ValueError, r"forward_func: got DataParallel, which .*forward_func\.module",
        built("module.stage1", nn.DataParallel(CASE.model())),
    ),
    "scripted": (
        ValueError, "'stage1' is a scripted or traced .*before torch.jit.script",
        built("stage1", torch.jit.script(CASE.model())),
    ),
    "traced": (
        ValueError, "'stage1' is a scripted or traced .*or torch.jit.trace",
        built("stage1", torch.jit.trace(CASE.model().eval(), X)),
    ),
    "scripted layer": (
        ValueError, "'1' is a scripted or traced module",
        built("1", nn.Sequential(nn.ReLU(), torch.jit.script(nn.ReLU()))),
    ),
    "name in a function": (
        ValueError, "the name 'a', but forward_func is no module.*Pass the module", built("a", sum)
    ),
    "unknown layer": (ValueError, "no layer 'x'.*find_layers", built("x")),
    "foreign layer": (ValueError, "Conv2d is not in the model. Pass one of its", built(FOREIGN)),
    "no layer": (ValueError, "layer: got an empty list, expected", built([])),
    "layer None": (TypeError, "layer: got NoneType, expected a module", built(None)),
    "layer number": (TypeError, "layer: got int, expected a module", built([3])),
    "layer twice": (ValueError, "'stage1' is listed twice", built(["stage1", "stage1"])),
    "reshape": (
        TypeError, "reshape_transform: got int, expected", built("stage1", reshape_transform=3)
    ),
    "CAM of two layers": (
        ValueError, "layer: got 2 layers, CAM takes one",
        lambda h: CAM(CASE.model(), ["stage1", "stage2"]),
    ),
    "CAM classifier": (
        TypeError, "classifier: got MaxPool2d, exp", lambda h: CAM(CASE.model(), "stage3", "pool1")
    ),
}  # fmt: skip
LAYERS = {
    "never runs": (RuntimeError, "'unused' did not run.*Choose a layer", layer("unused")),
    "runs twice": (RuntimeError, "'relu' ran more than once.*its block", layer("relu")),
    "tuple": (TypeError, "'pair' gave tuple, expected one tensor", layer("pair")),
    "no space": (ValueError, r"'flat' gave .* shape \(12, 192\).*reshape_tr", layer("flat")),
    "no batch": (
        ValueError, "'conv' gave 2 feature maps for 12 images, .*Choose a layer",
        layer("conv", reshape_transform=lambda f: f.transpose(0, 1)),
    ),
    "its channels last": (
        ValueError, r"'block' gave \(12, 4, 6, 5\) for images .*channels come last",
        lambda h: HRCAM(CHANNELS_LAST, "block").fit([(X, Y)]),
    ),
    "deep to shallow": (
        ValueError, r"layer: 'stage3' .* is named before 'stage2' .*shallow to deep, as 'stage1', ",
        lambda h: HRCAM(CASE.model(), CASE.layers[::-1]).fit([(X, Y)]),
    ),
    "hidden model in training mode": (
        RuntimeError, r"forward_func: got a function, and layer 'layer0' .*Call model\.eval",
        lambda h: HRCAM(lambda x: TRAINED(x), TRAINED.stage1).fit([(X, Y)]),
    ),
    "channels last": (
        ValueError, r"'conv' gave \(12, 4, 6, 16\) for images .*channels come last",
        layer("conv", reshape_transform=lambda f: f.movedim(1, -1)[:, ::2, ::2].repeat(1, 1, 1, 8)),
    ),
}  # fmt: skip
OPTIONS = {
    "solver": (ValueError, "solver: got 'lasso', expected one of", labels(Y, solver="lasso")),
    "loss": (ValueError, "loss: got 'hinge', expected one of", labels(Y, loss="hinge")),
    "targets": (ValueError, "targets: got 'masks', expected", labels(Y, targets="masks")),
    "balance": (ValueError, "balance_layers: got 'x', expected", labels(Y, balance_layers="x")),
    "negative penalty": (
        ValueError, "penalty: got -1, expected", labels(Y, solver="ridge", penalty=-1)
    ),
    "NaN penalty": (ValueError, "penalty: got nan, exp", labels(Y, solver="ridge", penalty=NAN)),
    "infinite penalty": (ValueError, "penalty: got inf", labels(Y, solver="ridge", penalty=INF)),
    "no penalty": (ValueError, "penalty: got None, expected 'auto' or", labels(Y, penalty=None)),
    "word as penalty": (ValueError, "penalty: got 'x', expected", labels(Y, penalty="x")),
    "penalty of pattern": (
        ValueError, "penalty: got 0.1 with solver='pattern'",
        labels(Y, solver="pattern", penalty=0.1),
    ),
    "balance of adam": (
        ValueError, "balance_layers: got 'equal' with solver='adam'",
        labels(Y, solver="adam", balance_layers="equal"),
    ),
    "balance of a cascade": (
        ValueError, "balance_layers: got 'equal' with solver='cascade'",
        labels(Y, solver="cascade", balance_layers="equal"),
    ),
    "cascade of real values": (
        ValueError, "loss: got 'mse' with solver='cascade'",
        labels(Y, solver="cascade", loss="mse"),
    ),
    "passes": (ValueError, "n_passes: got 0, expected", labels(Y, n_passes=0)),
    "epochs": (ValueError, "epochs: got 0, expected", labels(Y, solver="adam", epochs=0)),
    "batch size": (
        ValueError, "batch_size: got 2.5, exp", labels(Y, solver="adam", batch_size=2.5)
    ),
    "lr": (ValueError, "lr: got nan, expected", labels(Y, solver="adam", lr=NAN)),
    "seed": (ValueError, "seed: got 0.5, expected", labels(Y, solver="adam", seed=0.5)),
    "classes": (ValueError, "n_classes: got 0, expected", labels(Y, n_classes=0)),
}  # fmt: skip
DATA = {
    "empty loader": (ValueError, "train_data: it gave no batch; expected", fit([])),
    "generator read before": (ValueError, "generator gives its batches once", fit(iter(()))),
    "empty validation": (
        ValueError, "val_data: it gave no batch", fit([(X, Y)], val_data=[])
    ),
    "no data": (TypeError, "train_data: got NoneType, expected batches .*DataLoader", fit(None)),
    "one batch in no list": (
        TypeError, r"^train_data: got one batch, a tensor \(12, 2, .* to a tensor \(12,\), exp"
        r".*train_data=\[\(x, y\)\]", fit((X, Y)),
    ),
    "one batch in no list, rows of labels": (
        TypeError, "val_data: got one batch", fit([(X, Y)], val_data=[X, SOFT.numpy()])
    ),
    "one batch in no list, without labels": (
        TypeError, "got one batch, .* to a list of 12", fit((X, [0] * 12), targets="model")
    ),
    "one batch in no list, in check": (
        TypeError, "^data: got one batch", lambda h: h.check((X, X, Y))
    ),
    "number as validation": (
        TypeError, "val_data: got int, expected batches", fit([(X, Y)], val_data=5)
    ),
    "few images": (ValueError, "train_data: got 3 images, expected", fit([(X[:3], Y[:3])])),
    "mask beside the label": (
        TypeError, r"^train_data: .*positional.*were taken a tensor \(12, 2, 8, 12\), a tensor "
        r"\(12,\), and for the label its last item, a tensor \(12, 8, 12\)\. A batch.*collate_fn",
        fit([(X, Y, X[:, 0])]),
    ),
    "label and file name without labels": (
        TypeError, r"^train_data: .*positional.*, a tensor \(12,\)\. A batch is",
        fit([(X, Y, ["a.png"] * 12)], targets="model"),
    ),
    "mask beside the label in check": (
        TypeError, "^data: the model does not take", lambda h: h.check([(X, Y, X[:, 0])])
    ),
    "too few inputs": (
        TypeError, r"holds \(.*missing 1 required positional argument: 'side'\)",
        lambda h: HRCAM(TWO_INPUTS, "conv1").fit([(X, Y)]),
    ),
    "file names": (TypeError, "the last item of a batch is text", fit([(X, Y, ["a.png"] * 12)])),
    "no label": (TypeError, "a batch holds 1 item.*targets='model'", fit([X])),
    "dictionary": (TypeError, "is a dict of 'x', 'y', exp.*Give tup", fit([{"x": X, "y": Y}])),
    "no tensor": (TypeError, "a batch must be .*inputs a list of 2", fit([([1, 2], Y)])),
    "no pixel": (TypeError, r"a tensor \(12, 2, 0, 12\)", fit([(X[:, :, :0], Y)])),
    "other size": (
        ValueError, r"of input 0 is \(2, 4, 4\) in one batch.*one size",
        fit([(X, Y), (X[:, :, :4, :4], Y)]),
    ),
    "other size in validation": (
        ValueError, r"val_data: the shape of input 0 is \(2, 4, 4\).*one size",
        fit([(X, Y)], val_data=[(X[:, :, :4, :4], Y)]),
    ),
    "other channels": (
        RuntimeError, "expected .* to have 2 channels, but got 3",
        fit([(torch.zeros(12, 3, 8, 12), Y)]),
    ),
    "no channels": (
        ValueError, r"^inputs: got shape \(12, 8, 12\), .*channel axis", fit([(X[:, 0], Y)])
    ),
    "bytes": (
        ValueError, r"^inputs: got torch.uint8, but .*\.to\(torch.float32\)",
        fit([(X.to(torch.uint8), Y)]),
    ),
    "doubles, in check": (
        ValueError, "^inputs: got torch.float64, but", lambda h: h.check([(X.double(), Y)])
    ),
    "other channels in one batch": (
        ValueError, r"is \(3, 8, 12\) in one batch and \(2, 8, 12\)",
        fit([(X, Y), (torch.zeros(12, 3, 8, 12), Y)]),
    ),
    "NaN": (
        ValueError,
        r"NaN or infinity in the pooled features, first of image 12 \(from 0\)",
        fit([(X, Y), (with_value(X, NAN), Y)]),
    ),
    "infinity": (ValueError, "NaN or infinity in the pool", fit([(with_value(X, INF), Y)])),
    "NaN without labels": (
        ValueError, "NaN or infinity in the pool", fit([with_value(X, NAN)], targets="model")
    ),
    "model's scores for a head of other outputs": (
        ValueError, "targets: 'model' gives 3 scores an image, for a head of 2 outputs",
        fit([(X, Y)], targets="model", n_classes=2),
    ),
    "NaN from the model": (
        ValueError, "targets: NaN or infinity in the model's outputs",
        lambda h: HRCAM(GIVES_NAN, "0").fit([(X, Y)], targets="model"),
    ),
    "too small for float32": (
        ValueError, "train_data: solver 'cascade' finds no finite head.*Scale the inputs",
        lambda h: HRCAM(WITHOUT_BIAS, "0").fit([(X * 1e-30, Y)], solver="cascade"),
    ),
    "too large for float32": (
        ValueError, "train_data: NaN or infinity in the pooled features",
        lambda h: HRCAM(WITHOUT_BIAS, "0").fit([(X * 1e25, Y)]),  # their variance over cells
    ),
    "two inputs of other counts": (
        ValueError, "train_data: a batch's inputs must hold the same images",
        lambda h: HRCAM(TWO_INPUTS, "conv1").fit([(X, torch.zeros(4, 1, 3, 3), Y)]),
    ),
    "loader breaks": (OSError, "the disk", breaks_after(OSError("the disk"))),
    "interrupt in the loader": (KeyboardInterrupt, None, breaks_after(KeyboardInterrupt())),
    "interrupt in the model": (
        KeyboardInterrupt, None,
        lambda h: HRCAM(INTERRUPTED, "inner.stage1").fit(training_batches(CASE)),
    ),
}  # fmt: skip
LABELS = {
    "too large": (ValueError, r"labels: 3 is outside 0\.\.2", labels(Y + 1)),
    "negative": (ValueError, r"labels: -1 is outside 0\.\.2.*Number", labels(Y - 1)),
    "too large in validation": (
        ValueError, "labels: 3 is outside", fit([(X, Y)], val_data=[(X, Y + 1)])
    ),
    "not whole": (ValueError, "non-integer.*loss='mse'", labels(Y + 0.5)),
    "NaN": (ValueError, "labels: NaN or infinity.*remove", labels(with_value(Y, NAN))),
    "infinite": (ValueError, "labels: NaN or infinity", labels(with_value(Y, INF))),
    "too few": (ValueError, r"labels: got shape \(5,\) for a batch of 12 images", labels(Y[:5])),
    "a word": (TypeError, "the last item of a batch is text, 'abc'", labels("abc")),
    "None": (TypeError, "labels: got NoneType, expected", labels(None)),
    "narrow rows": (ValueError, r"expected \(12, 3\)", labels(torch.ones(12, 2) / 2)),
    "rows that do not sum": (ValueError, "do not sum to 1, exp", labels(SOFT * 2)),
    "beyond 1": (
        ValueError, "values from 0 to 2, expected 0 to 1",
        labels(Y[:, None] * torch.ones(12, 3), loss="binary_cross_entropy"),
    ),
    "real NaN": (ValueError, "labels: NaN", labels(with_value(SOFT, NAN), loss="mse")),
    "real infinite": (ValueError, "labels: NaN", labels(with_value(SOFT, INF), loss="mse")),
    "one class": (ValueError, "no sample .* has class 1, 2; every .*Add samples", labels(Y * 0)),
    "absent class": (ValueError, "no sample .* has class 2 .*Add samples", labels(Y % 2)),
}  # fmt: skip
MAPS = {
    "not fitted": (
        RuntimeError, "no head yet: call fit or load",
        lambda h: HRCAM(CASE.model(), "stage1").attribute(X, 1),
    ),
    "fusion": (ValueError, "fusion: got 'max', expected", attribute(X, fusion="max")),
    "interpolation": (
        ValueError, "interpolate_mode: got 'trilinear', expected",
        attribute(X, interpolate_mode="trilinear"),
    ),
    "threshold": (
        ValueError, "evidence_threshold: got nan, expected",
        attribute(X, fusion="evidence", evidence_threshold=NAN),
    ),
    "target": (AssertionError, r"target: got 3 for .*expected a class in 0\.\.2", attribute(X, 3)),
    "targets of other length": (
        AssertionError, r"target: got \[0, 1\] for .*one for each image", attribute(X, [0, 1])
    ),
    "no target": (AssertionError, "target: got None.*Pass the class", attribute(X, None)),
    "array": (AssertionError, "`inputs` must be a torch.Tensor .*ndarray", attribute(X.numpy())),
    "no image": (ValueError, r"inputs: got shape \(0, 2, 8, 12\), exp", attribute(X[:0])),
    "no pixel": (ValueError, r"inputs: got shape \(12, 2, 0, 12\), exp", attribute(X[:, :, :0])),
    "no batch": (
        ValueError, r"inputs: got shape \(2, 8, 12\), on which .*image\[None\]", attribute(X[0])
    ),
    "no channels": (ValueError, "inputs: got shape .*images.:, None", attribute(X[:5, 0])),
    "doubles": (ValueError, "inputs: got torch.float64, but the mod", attribute(X.double())),
    "vector among inputs": (
        ValueError, r"shape \(12, 5\).*additional_forward_args", attribute((X, torch.ones(12, 5)))
    ),
    "numbers among inputs": (
        ValueError, r"shape \(12,\), expected .*additional_forward_args",
        attribute((X, torch.ones(12))),
    ),
    "batches of two sizes": (ValueError, "got batches of 12 and 4", attribute((X, X[:4]))),
    "another device": (
        ValueError, r"inputs: got tensors on meta, but the model is on cpu.*\.to\('cpu'\)",
        attribute(X.to("meta")),
    ),
    "another device to predict": (
        ValueError, "inputs: got tensors on meta", lambda h: h.predict(X.to("meta"))
    ),
    "other channels of the image": (
        RuntimeError, "expected .* to have 2 channels, but got 3",
        attribute(torch.zeros(2, 3, 8, 12)),
    ),
    "other channels of a layer": (
        ValueError, "'stage1' gave 4 channels, but the head has weights for 5. Use", other_channels
    ),
    "layers of agreement": (
        ValueError, "fusion: 'agreement' is no sum.*Use", lambda h: h.layer_maps(
            X, 1, fusion="agreement"
        ),
    ),
    "CAM's evidence": (
        ValueError, "'evidence' needs.*CAM has none. Use",
        lambda h: CAM(CASE.model(), "stage3").attribute(X, 1, fusion="evidence"),
    ),
    "CAM of another layer": (
        ValueError, "'stage1' gave 4 channels.*weights for 8",
        lambda h: CAM(CASE.model(), "stage1").attribute(X, 1),
    ),
}  # fmt: skip
FILES = {
    "missing": (FileNotFoundError, "path: no file .*; save a", load(FILE / "x")),
    "folder": (FileNotFoundError, "path: no file .*; save a", load(FILE.parent)),
    "foreign": (ValueError, "path: .*test_bad_input.py' is truncated or", load(Path(__file__))),
    "of layers with other names": (
        ValueError, r"^layer: the head of .*head_v1.* of layers stage1, .*layer=\[\.\.\.\]",
        load(model=nn.Sequential(CASE.model())),
    ),
    "for a function": (ValueError, "^layer: the head of .*as modules", load(model=lambda x: x)),
    "of a layer named wrongly": (ValueError, "no layer 'stage9'", load(layer="stage9")),
    "for no model": (TypeError, "forward_func: got int", load(model=3)),
    "fewer layers": (ValueError, "got 1 layers, but .* holds 3", load(layer="stage1")),
    "nowhere to save": (
        FileNotFoundError, "path: no folder .*; make it first", lambda h: h.save(FILE / "x" / "y")
    ),
    "into a folder": (IsADirectoryError, "path: .* is a folder", lambda h: h.save(FILE.parent)),
}  # fmt: skip
METHODS = {
    "none": (ValueError, "methods: got none, expected", lambda h: compare([], X, 1)),
    "number": (TypeError, "methods: 'a' is int, expected", lambda h: compare({"a": 3}, X, 1)),
    "no map": (
        ValueError, r"'a' gave shape \(12,\) for inputs .*expected",
        lambda h: compare({"a": lambda x, **_: x.mean((1, 2, 3))}, X, 1),
    ),
    "no tensor": (
        TypeError, "'a' gave float, expected a tensor",
        lambda h: compare({"a": lambda x, **_: 1.0}, X, 1),
    ),
    "not fitted": (
        RuntimeError, "no head yet: call fit",
        lambda h: compare(HRCAM(CASE.model(), "stage1"), X, 1),
    ),
    "not fitted, to evaluate": (
        RuntimeError, "no head yet: call fit",
        lambda h: evaluate(HRCAM(h.forward_func, "stage1"), [(X, Y, X[:, 0] > 0)]),
    ),
    "no data to evaluate": (
        ValueError, "data: it gave no batch, expected", lambda h: evaluate(h, [])
    ),
}  # fmt: skip
TABLES = {
    "constructor": CONSTRUCTOR, "layer": LAYERS, "option": OPTIONS, "data": DATA,
    "labels": LABELS, "maps": MAPS, "file": FILES, "methods": METHODS,
}  # fmt: skip
REFUSED = {f"{of}: {name}": row for of, table in TABLES.items() for name, row in table.items()}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_and_nothing_left_behind(name):
    error, message, call = REFUSED[name]
    hrcam = fitted(CASE)
    head, report, expected = hrcam.head, hrcam.report, hrcam.attribute(X, 1)
    states = [State(model) for model in (hrcam.forward_func, RUNS_TWICE, TWO_INPUTS, INTERRUPTED)]
    with pytest.raises(error, match=message):
        call(hrcam)
    for state in states:
        state.assert_unchanged()
    assert hrcam.head is head
    assert hrcam.report is report
    assert torch.equal(hrcam.attribute(X, 1), expected)


def test_one_output_and_softmax():
    model = nn.Sequential(
        CASE.model().stage1, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)
    )
    with pytest.raises(ValueError, match=r"loss: got 'cross_entropy' for a model of one output"):
        HRCAM(model, "0").fit([(X, Y)])


def test_output_that_is_no_row_of_scores():
    class Dictionary(nn.Module):
        def __init__(self) -> None:
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


class AddsChannels(nn.Module):
    """Adds the channel axis itself, as models of signals and of grey images may."""

    def __init__(self, convolution: type[nn.Module]) -> None:
        super().__init__()
        self.conv, self.fc, self.passes = convolution(1, 3, 3), nn.Linear(3, 2), 0

    def forward(self, x):
        self.passes += 1
        return self.fc(self.conv(x[:, None]).relu().flatten(2).mean(2))


@pytest.mark.parametrize("solver", ["auto", "pattern"])
@pytest.mark.parametrize(("convolution", "size"), [(nn.Conv1d, (16,)), (nn.Conv2d, (8, 12))])
def test_images_without_channel_axis_are_refused_in_the_first_batch(solver, convolution, size):
    model = AddsChannels(convolution).eval()
    whole = HRCAM(lambda x: model(x[:, 0]), model.conv)
    x, y = torch.randn(30, 1, *size), torch.arange(30) % 2
    batches, without = ([(v, y), (v, y)] for v in (x, x[:, 0]))
    fit_quietly(whole, batches, solver=solver)
    assert whole.attribute(x, 1).shape == (30, 1, *size)  # so the remedy helps
    hrcam, model.passes = HRCAM(model, "conv"), 0
    with pytest.raises(
        ValueError, match=r"^train_data: got images .*, and let .* model\(x\[:, 0\]"
    ):
        hrcam.fit(without, solver=solver)
    assert model.passes == 1


def test_layers_with_fewer_axes_than_the_image_are_refused_in_the_first_batch():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(2), nn.ReLU(), nn.AdaptiveAvgPool1d(1))
    with pytest.raises(
        ValueError, match=r"^train_data: .* layer '2' have \(60,\).*a reshape_trans"
    ):
        HRCAM(nn.Sequential(*model, nn.Flatten()), "2").fit([(X, Y)], solver="pattern")


# ---- what must not be refused


@pytest.mark.parametrize("solver", ["pattern", "cascade", "ridge", "adam"])
def test_batches_of_any_size_are_fine(solver):
    x, y = torch.cat([X] * 3), torch.cat([Y] * 3)
    sizes = [12, 7, 16, 1]  # the last batch of one
    batches = list(zip(x.split(sizes), y.split(sizes), strict=True))
    maps = [
        fit_quietly(HRCAM(CASE.model(), CASE.layers), data, solver=solver).attribute(X, 1)
        for data in (batches, [(x, y)])
    ]
    torch.testing.assert_close(*maps, rtol=0, atol=0.01 * maps[1].abs().max().item())


@pytest.mark.parametrize("solver", ["auto", "cascade"])
def test_images_of_one_pixel_are_fine(solver):
    case = BY_NAME["depthwise2d"]
    hrcam = HRCAM(case.model(), case.layers)
    fit_quietly(hrcam, [(torch.randn(30, 2, 1, 1), torch.arange(30) % 3)], solver=solver)
    for fusion in ("sum", "evidence", "agreement"):
        maps = hrcam.attribute(torch.randn(1, 2, 1, 1), 1, fusion=fusion)
        assert maps.shape == (1, 1, 1, 1)
        assert maps.isfinite().all()


def test_image_with_nan_spoils_its_own_map_alone():
    hrcam = fitted(CASE)
    expected = hrcam.attribute(X, 1)
    maps = hrcam.attribute(with_value(X, NAN), 1)
    assert maps[0].isnan().any()
    assert torch.equal(maps[1:], expected[1:])
