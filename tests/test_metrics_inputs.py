"""What metrics take and refuse: shapes, dtypes, values, missing packages."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from captum_hrcam import metrics
from captum_hrcam.metrics.thresholds import GRID

PER_IMAGE = {
    "sensitivity": lambda a, m: metrics.sensitivity(a, m, 0.5),
    "specificity": lambda a, m: metrics.specificity(a, m, 0.5),
    "iou": lambda a, m: metrics.iou(a, m, 0.5),
    "dice": lambda a, m: metrics.dice(a, m, 0.5),
    "pixel_average_precision": metrics.pixel_average_precision,
    "pixel_auroc": metrics.pixel_auroc,
    "sensitivity_at_specificity": metrics.sensitivity_at_specificity,
    "pointing_game": metrics.pointing_game,
    "energy_pointing": metrics.energy_pointing,
}
PER_SET = {
    "pxap": metrics.pxap,
    "max_box_acc_v2": metrics.max_box_acc_v2,
    "oracle_threshold": lambda a, m: metrics.oracle_threshold(a, m).value,
    "stream": lambda a, m: metrics.PooledAveragePrecision().update(a, m),
}
EVERY = {**PER_IMAGE, **PER_SET}


def images(n: int = 3, size: tuple[int, ...] = (4, 6)):
    rng = np.random.default_rng(0)
    maps = rng.integers(-8, 9, (n, *size)) / 4  # exact in every float type
    masks = maps + rng.normal(size=maps.shape) > 0.5
    return maps, masks


@pytest.mark.parametrize("name", PER_IMAGE)
def test_shapes(name):
    """The rule: (H, W) is one image, otherwise the first axis is the batch; a channel of one."""
    metric = PER_IMAGE[name]
    maps, masks = images()
    expected = metric(maps, masks)
    assert expected.shape == (3,)
    assert expected.dtype == np.float64
    assert len(set(expected)) > 1, "a figure that is the same for all images tests nothing"
    for a, m in [(maps[:, None], masks), (maps, masks[:, None]), (maps[:, None], masks[:, None])]:
        np.testing.assert_array_equal(metric(a, m), expected)
    assert type(metric(maps[0], masks[0])) is float
    assert metric(maps[0], masks[0]) == expected[0]
    assert metric(maps[0][None, None], masks[0]).shape == (1,)


@pytest.mark.parametrize("name", PER_IMAGE)
def test_volumes(name):
    metric = PER_IMAGE[name]
    maps, masks = images(3, (2, 4, 3))
    expected = metric(maps.reshape(3, 8, 3), masks.reshape(3, 8, 3))
    for a, m in [(maps, masks), (maps[:, None], masks), (maps, masks[:, None])]:
        np.testing.assert_array_equal(metric(a, m), expected)
    # One volume takes a leading axis; without it the first axis is the batch.
    assert metric(maps[0][None], masks[0][None]).tolist() == [expected[0]]
    assert metric(maps[0], masks[0]).shape == (2,)


def test_vxap_knows_its_three_axes():
    maps, masks = images(3, (2, 4, 3))
    assert metrics.vxap(maps[0], masks[0]) == metrics.vxap(maps[0][None, None], masks[0])
    one = metrics.pixel_average_precision(maps[:1], masks[:1])[0]
    assert metrics.vxap(maps[0], masks[0]) == pytest.approx(one)
    assert metrics.pxap(maps[0], masks[0]) != pytest.approx(one)  # slices, each scaled alone
    with pytest.raises(ValueError, match="volumes go to vxap"):
        metrics.pxap(maps, masks)
    with pytest.raises(ValueError, match="images go to pxap"):
        metrics.vxap(maps[0, 0], masks[0, 0])
    with pytest.raises(ValueError, match="spatial_dims=1"):
        metrics.PooledAveragePrecision(spatial_dims=1)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
def test_tensors(dtype):
    maps, masks = images()
    leaf = torch.tensor(maps[:, None], dtype=dtype, requires_grad=True)
    for name, metric in PER_IMAGE.items():
        for m in (torch.tensor(masks), torch.tensor(masks).to(dtype), torch.tensor(masks).int()):
            np.testing.assert_array_equal(metric(leaf, m), metric(maps, masks), err_msg=name)
    assert metrics.pxap(leaf, masks) == metrics.pxap(maps, masks)
    np.testing.assert_array_equal(metrics.min_max(leaf)[:, 0], metrics.min_max(maps))


def test_tensors_keep_their_digits():
    maps = np.random.default_rng(0).random((2, 4, 6))
    np.testing.assert_array_equal(metrics.min_max(torch.tensor(maps)), metrics.min_max(maps))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_tensors():
    maps, masks = images()
    on_gpu = torch.tensor(maps).cuda(), torch.tensor(masks).cuda()
    np.testing.assert_array_equal(metrics.pixel_auroc(*on_gpu), metrics.pixel_auroc(maps, masks))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.int8, np.uint8, bool])
def test_arrays(dtype):
    maps, masks = images()
    maps = (maps > 0).astype(dtype)
    for metric in PER_IMAGE.values():
        expected = metric(maps.astype(float), masks)
        np.testing.assert_array_equal(metric(maps, masks.astype(dtype)), expected)


def test_inputs_are_left_alone():
    maps, masks = images()
    before = maps.copy(), masks.copy()
    maps.flags.writeable = masks.flags.writeable = False
    for metric in EVERY.values():
        metric(maps, masks)
    np.testing.assert_array_equal(maps, before[0])
    np.testing.assert_array_equal(masks, before[1])


@pytest.mark.parametrize("name", EVERY)
def test_refusals(name):
    metric = EVERY[name]
    maps, masks = images()
    for bad in (np.nan, np.inf, -np.inf):
        spoiled = maps.copy()
        spoiled[1, 2, 3] = bad
        with pytest.raises(ValueError, match=r"maps hold NaN or infinity at 1 of 72.*\[1\]"):
            metric(spoiled, masks)
    for bad in (2, 255, -1, 0.5, np.nan):
        spoiled = masks.astype(float)
        spoiled[0, 0, 0] = bad
        with pytest.raises(ValueError, match=f"masks hold the value {bad}.*only 0 and 1"):
            metric(maps, spoiled)
    sizes = [
        (maps, masks[:, :3]),
        (maps, masks[:2]),
        (maps, masks[0]),  # one mask for many maps
        (maps[0], masks),
        (maps, masks.swapaxes(1, 2)),
    ]
    for a, m in sizes:
        with pytest.raises(ValueError, match="do not go with masks of shape") as error:
            metric(a, m)
        assert str(a.shape) in str(error.value)
        assert str(m.shape) in str(error.value)
    for shape in [(4,), (), (0, 4, 6), (3, 0, 6), (2, 3, 2, 4, 6)]:
        with pytest.raises(ValueError, match=r"maps of shape .*expected \(H, W\)"):
            metric(np.zeros(shape), np.zeros(shape))


def test_the_images_at_fault_are_named_at_most_five():
    for n, named in [(5, r"\[1, 2, 3, 4, 5\]\)"), (6, r"\[1, 2, 3, 4, 5\]\.\.\.\)")]:
        maps = np.zeros((8, 2, 3))
        maps[1 : n + 1, 0, 0] = np.nan
        with pytest.raises(ValueError, match=rf"{n} of 48 places \(images {named}"):
            metrics.pixel_auroc(maps, np.ones((8, 2, 3)))


def test_the_first_value_at_fault_is_named():
    masks = np.array([[0, 1, 3, 7, 0]])
    with pytest.raises(ValueError, match="masks hold the value 3:"):
        metrics.pixel_auroc(np.zeros((1, 5)), masks)


@pytest.mark.parametrize("name", PER_IMAGE)
def test_channels_are_refused_with_the_remedy(name):
    _, masks = images()
    with pytest.raises(ValueError, match="sum an attribution over its channels"):
        PER_IMAGE[name](np.zeros((3, 3, 4, 6)), masks)


def test_what_is_no_number_is_refused():
    maps, masks = images()
    with pytest.raises(ValueError, match="maps are of dtype complex128"):
        metrics.iou(maps + 1j, masks, 0.5)
    with pytest.raises(ValueError, match="masks are of dtype"):
        metrics.iou(maps, masks.astype(str), 0.5)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, np.nan, [0.1, 0.2, 2.0]])
def test_thresholds_outside_the_scaled_map_are_refused(threshold):
    with pytest.raises(ValueError, match=r"expected numbers in 0\.\.1"):
        metrics.sensitivity(*images(), threshold)


def test_options_out_of_range_are_refused():
    maps, masks = images()
    with pytest.raises(ValueError, match=r"threshold of shape \(2,\) for 3 maps"):
        metrics.dice(maps, masks, np.array([0.1, 0.2]))
    for specificity in (90, 1.01, -0.01):
        with pytest.raises(ValueError, match=rf"specificity={specificity}"):
            metrics.sensitivity_at_specificity(maps, masks, specificity)
    with pytest.raises(ValueError, match="bins=999"):
        metrics.pxap(maps, masks, bins=999)
    with pytest.raises(ValueError, match="contours='every'"):
        metrics.max_box_acc_v2(maps, masks, contours="every")
    with pytest.raises(ValueError, match=r"thresholds=.*0\.\.1"):
        metrics.max_box_acc_v2(maps, masks, thresholds=[30, 50])
    for wrong in ([], [-0.5], [0.5, 1.5], [[0.5]]):
        with pytest.raises(ValueError, match="iou_levels="):
            metrics.max_box_acc_v2(maps, masks, iou_levels=wrong)
    assert metrics.max_box_acc_v2(maps, masks, thresholds=[0, 1], iou_levels=[0, 1]) >= 0.5
    with pytest.raises(ValueError, match="grid is empty"):
        metrics.oracle_threshold(maps, masks, grid=[])


@pytest.mark.parametrize(
    ("package", "metric"),
    [
        ("sklearn.metrics", metrics.pixel_average_precision),
        ("sklearn.metrics", metrics.pixel_auroc),
        ("sklearn.metrics", metrics.sensitivity_at_specificity),
        ("sklearn.metrics", metrics.pxap),
        ("scipy.ndimage", metrics.max_box_acc_v2),
        ("scipy.stats", lambda a, m: metrics.compare_paired([1.0, 2.0, 4.0], [0.0, 0.0, 0.0])),
    ],
)
def test_a_missing_package_is_named_with_the_remedy(monkeypatch, package, metric):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'pip install "captum-hrcam\[eval\]"') as error:
        metric(*images())
    assert package.partition(".")[0] in str(error.value)


def test_import_and_numpy_metrics_need_no_extra():
    """In a fresh interpreter that finds none of the extra's packages."""
    code = """
import sys
for name in ("sklearn", "scipy", "pandas"):
    sys.modules[name] = None
import numpy as np
from captum_hrcam import metrics as x
a, m = np.arange(8.0).reshape(2, 2, 2), np.array([[[0, 1], [0, 1]]] * 2)
for f in (x.sensitivity, x.specificity, x.iou, x.dice):
    f(a, m, x.otsu_threshold(a)), f(a, m, x.oracle_threshold(a, m))
x.pointing_game(a, m), x.energy_pointing(a, m), x.min_max(a), x.centred_gaussian((2, 2))
x.pxap(a, m, exact_below=0), x.holm([0.1]), x.summarize([0.1])
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_metrics_see_no_model():
    """Imports point one way: the package, numpy, torch and the standard library."""
    allowed = {"captum_hrcam.metrics", "numpy", "torch", *sys.stdlib_module_names}
    files = sorted(Path(metrics.__file__).parent.glob("*.py"))
    assert len(files) > 5
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                own = name.startswith("captum_hrcam.metrics")
                assert own or name.partition(".")[0] in allowed, (file.name, name)


def test_thresholds_to_search_are_every_hundredth_inside():
    assert np.round(GRID * 100).tolist() == list(range(1, 100))
