"""A cache is used for the same model, layers, options and images, and for nothing else."""

import errno
import gc
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import BY_NAME, fit_quietly
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_hrcam import HRCAM
from captum_hrcam.cache import DataDigest, FeatureCache, model_digest
from captum_hrcam.rows import RowFile

CASE = BY_NAME["vgg2d"]
N = 40


def data(n: int = N, seed: int = 0) -> TensorDataset:
    x = torch.randn(n, 2, *CASE.size, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, torch.arange(n) % 3)


def model(change: float = 0.0) -> nn.Module:
    net = CASE.model().eval()
    with torch.no_grad():
        net.fc.bias += change  # a weight that no feature depends on
    return net


class Count:
    """Images that went through a model."""

    def __init__(self, module: nn.Module) -> None:
        self.n = 0
        module.register_forward_pre_hook(self._add)

    def _add(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.n += len(inputs[0])


def fit(folder: Path, net: nn.Module | None = None, loader: object = None, **options) -> HRCAM:
    options = {"solver": "ridge"} | options
    hrcam = HRCAM(net or model(), options.pop("layers", CASE.layers))
    loader = DataLoader(data(), batch_size=9) if loader is None else loader
    return fit_quietly(hrcam, loader, cache=folder, **options)


def is_from_cache(hrcam: HRCAM) -> bool:
    return any("of the same model" in choice for choice in hrcam.report.choices)


@pytest.mark.parametrize("options", [{}, {"penalty": 0.1, "n_passes": 2}, {"targets": "model"}])
def test_a_second_fit_takes_the_features_from_the_cache(tmp_path, options):
    first = fit(tmp_path, **options)
    net = model()
    count = Count(net)
    second = fit(tmp_path, net, DataLoader(data(), batch_size=11), **options)
    assert count.n == second.report.extra_forwards  # what is ordinary in the maps: a few images
    assert str(tmp_path) in second.report.choices[-1]
    assert second.report.channels == first.report.channels
    assert second.report.resolutions == first.report.resolutions
    for name, weight in first.weights.items():
        assert torch.equal(second.weights[name], weight)
        assert torch.equal(second.head.spread[name], first.head.spread[name])
    assert first.report.contrast.isfinite().any()
    torch.testing.assert_close(second.report.contrast, first.report.contrast, equal_nan=True)
    plain = fit_quietly(
        HRCAM(model(), CASE.layers),
        DataLoader(data(), batch_size=9),
        **({"solver": "ridge"} | options),
    )
    for name, weight in plain.weights.items():
        torch.testing.assert_close(second.weights[name], weight, rtol=1e-4, atol=1e-5)


def test_shuffled_images_are_the_same_images(tmp_path):
    fit(tmp_path)
    net = model()
    count = Count(net)
    hrcam = fit(tmp_path, net, DataLoader(data(), batch_size=9, shuffle=True))
    assert count.n == hrcam.report.extra_forwards


@pytest.mark.parametrize(
    "other",
    [
        {"net": model(1.0)},
        {"loader": DataLoader(data(seed=1), batch_size=9)},
        {"loader": DataLoader(data(N - 1), batch_size=9)},
        {"loader": [(data().tensors[0], data().tensors[1].flip(0))]},
        {"layers": CASE.layers[:-1]},
        {"layers": CASE.layers[::-1]},
        {"loss": "binary_cross_entropy", "targets": "model"},
        {"n_passes": 2},
    ],
    ids=["weights", "images", "fewer images", "labels", "layers", "order", "loss", "passes"],
)
def test_anything_else_is_read_again(tmp_path, other):
    fit(tmp_path)
    net = other.pop("net", None) or model()
    count = Count(net)
    hrcam = fit(tmp_path, net, other.pop("loader", None), **other)
    assert count.n > hrcam.report.extra_forwards
    assert not any(str(tmp_path) in choice for choice in hrcam.report.choices)


@pytest.mark.parametrize(
    ("options", "then"),
    [
        ({"attribute_to_layer_input": True}, True),
        ({"reshape_transform": lambda f: 2 * f}, False),  # one function looks like another
    ],
)
def test_layers_that_are_read_in_another_way_are_read_again(tmp_path, options, then):
    fit(tmp_path)
    for is_known in (False, then):
        hrcam = HRCAM(model(), CASE.layers, **options)
        fit_quietly(hrcam, [data().tensors], solver="ridge", cache=tmp_path)
        assert is_from_cache(hrcam) == is_known


def test_the_cache_of_another_version_is_read_again(tmp_path, monkeypatch):
    fit(tmp_path)
    monkeypatch.setattr("captum_hrcam.cache.VERSION", 1)
    assert not is_from_cache(fit(tmp_path))


def test_a_function_and_data_that_come_once_are_read_again(tmp_path):
    net = model()
    for data_again in (lambda: [data().tensors], lambda: iter([data().tensors])):
        for _ in range(2):
            hrcam = HRCAM(lambda x: net(x), [net.stage1, net.stage3])
            fit_quietly(hrcam, data_again(), solver="ridge", cache=tmp_path)
            assert not any(str(tmp_path) in choice for choice in hrcam.report.choices)
    for _ in range(2):
        hrcam = fit(tmp_path, loader=iter([data().tensors]))
        assert not any(str(tmp_path) in choice for choice in hrcam.report.choices)


def interrupted():
    x, y = data().tensors
    yield x[:20], y[:20]
    raise KeyboardInterrupt


def test_an_interrupted_pass_leaves_nothing_to_trust(tmp_path):
    first = fit(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, loader=interrupted())
    net = model()
    count = Count(net)
    again = fit(tmp_path, net)
    assert count.n > again.report.extra_forwards
    for name, weight in first.weights.items():
        assert torch.equal(again.weights[name], weight)


class Interrupted:
    """The same images, read until the user stops; not once, so that a cache may be compared."""

    def __iter__(self):
        return interrupted()


@pytest.mark.parametrize("is_compared", [False, True])
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupted_fit_leaves_no_file_open_and_none_that_is_incomplete(tmp_path, is_compared):
    if is_compared:
        fit(tmp_path)
    before = sorted(tmp_path.iterdir())
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path, loader=Interrupted())
        gc.collect()
    assert sorted(tmp_path.iterdir()) == before
    assert is_from_cache(fit(tmp_path)) == is_compared


@pytest.mark.parametrize("damage", ["shorter rows", "broken note", "pickled note"])
def test_a_damaged_cache_is_written_anew(tmp_path, damage):
    fit(tmp_path)
    [rows], note = tmp_path.glob("features-0-of-1.*.rows"), tmp_path / "features-0-of-1.npz"
    if damage == "shorter rows":
        os.truncate(rows, rows.stat().st_size - 4)
    elif damage == "broken note":
        note.write_bytes(note.read_bytes()[:100])
    else:
        torch.save({"note": "x"}, note)
    net = model()
    count = Count(net)
    hrcam = fit(tmp_path, net)
    assert count.n > hrcam.report.extra_forwards


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    net = model()
    count = Count(net)
    hrcam = fit_quietly(HRCAM(net, CASE.layers), [data().tensors])
    head, n = hrcam.head, count.n
    with pytest.raises(OSError, match=r"cache: '.*file' is no folder that can be written"):
        hrcam.fit([data().tensors], solver="ridge", cache=tmp_path / "file")
    assert hrcam.head is head
    assert count.n == n


class OnAFullDisk(RowFile):
    def __init__(self, path: Path) -> None:
        super().__init__(Path("/dev/full"))


@pytest.mark.parametrize("times", [1, 60])  # 1: the rows are buffered up to the end
def test_a_full_disk_keeps_the_old_head(tmp_path, monkeypatch, times):
    hrcam = fit_quietly(HRCAM(model(), CASE.layers), [data().tensors])
    head = hrcam.head
    monkeypatch.setattr("captum_hrcam.cache.RowFile", OnAFullDisk)
    x, y = (t.repeat(times, *[1] * (t.ndim - 1)) for t in data().tensors)
    with pytest.raises(OSError, match="cannot take more features") as told:
        hrcam.fit([(x, y)], solver="ridge", penalty=1.0, cache=tmp_path)
    assert told.value.errno == errno.ENOSPC
    assert hrcam.head is head


@pytest.mark.parametrize("solver", ["auto", "pattern", "cascade"])
def test_solvers_that_keep_no_features_have_no_cache(tmp_path, solver):
    message = rf"cache: got '.*' with solver='{solver}', which keeps no"
    with pytest.raises(ValueError, match=message):
        HRCAM(model(), CASE.layers).fit([data().tensors], solver=solver, cache=tmp_path)


def test_digests_tell_what_differs():
    x = torch.arange(12.0).reshape(2, 1, 2, 3)

    def digest(*batches):
        found = DataDigest()
        for inputs, labels in batches:
            found.add(inputs, labels)
        return found.value()

    whole = digest(((x,), torch.tensor([0, 1])))
    assert whole == digest(((x[1:],), [1]), ((x[:1],), [0]))
    assert whole == digest(((x,), pd.Series([0, 1], index=[7, 8])))  # as a fit takes them
    assert whole != digest(((x,), torch.tensor([1, 0])))
    assert whole != digest(((x.double(),), torch.tensor([0, 1])))
    assert whole != digest(((x.reshape(2, 1, 3, 2),), torch.tensor([0, 1])))
    assert model_digest(nn.ReLU()) != model_digest(nn.ReLU(inplace=True))
    assert model_digest(lambda x: x) == "unknown"


def test_a_model_with_more_state_than_tensors_is_read_again(tmp_path):
    class Stateful(nn.Module):
        def get_extra_state(self):
            return {"version": 1}

        def set_extra_state(self, state):
            pass

    net = model()
    net.version = Stateful()
    for _ in range(2):
        hrcam = fit(tmp_path, net)
        assert not any(str(tmp_path) in choice for choice in hrcam.report.choices)


def test_a_lazy_model_is_known_once_it_has_its_weights(tmp_path):
    net = nn.Sequential(
        nn.LazyConv2d(4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(3)
    )
    assert model_digest(net) == "unknown"
    fits = [fit(tmp_path, net, layers=["0"]) for _ in range(3)]
    notes = [str(tmp_path) in hrcam.report.choices[-1] for hrcam in fits]
    assert notes == [False, False, True]


def test_a_fit_beside_another_in_the_same_folder_keeps_its_own_features(tmp_path):
    alone = fit_quietly(HRCAM(model(), CASE.layers), [data().tensors], solver="ridge")

    def while_another_fits():
        x, y = data().tensors
        yield x[:20], y[:20]
        fit(tmp_path, loader=[data(seed=1).tensors])  # begins later and ends sooner
        yield x[20:], y[20:]

    beside = fit(tmp_path, loader=while_another_fits())
    again = fit(tmp_path)  # what lies there now is of one of the two, or nothing
    for name, weight in alone.weights.items():
        torch.testing.assert_close(beside.weights[name], weight, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(again.weights[name], weight, rtol=1e-4, atol=1e-5)


def test_features_that_are_mapped_survive_a_later_fit(tmp_path):
    folder = tmp_path / "made" / "where missing"
    cache = FeatureCache(folder, {"model": "a"})
    rows = cache.begin()
    rows.add(torch.zeros(3), torch.arange(6.0).reshape(3, 2))
    _, values = rows.rows()
    cache.begin().add(torch.zeros(1), torch.zeros(1, 2))
    assert values.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert len(list(folder.iterdir())) == 1


def test_a_buffer_that_is_not_saved_tells_models_apart():
    net = nn.BatchNorm1d(2)
    net.register_buffer("scale", torch.ones(1), persistent=False)
    before = model_digest(net)
    net.scale.mul_(2)
    assert model_digest(net) != before


def test_numpy_numbers_are_numbers(tmp_path):
    fit(tmp_path, n_classes=np.int64(3), n_passes=np.int64(1))
    assert is_from_cache(fit(tmp_path, n_classes=3, n_passes=1))


def test_autocast_tells_features_apart(tmp_path):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fit(tmp_path)
    assert not is_from_cache(fit(tmp_path))
    assert is_from_cache(fit(tmp_path))
