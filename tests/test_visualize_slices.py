"""Slices of volumes: which voxel, which way round, how large."""

import itertools

import numpy as np
import pytest
import torch

from captum_hrcam.visualize import slices_figure

SIZE = (4, 6, 5)  # to the right, to the front, up
VOLUME = torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(0))
SPOT = torch.zeros(1, *SIZE)
SPOT[0, 1, 4, 3] = 1
CANONICAL = torch.eye(4)
PLANES = ["axial, R | L\nslice 3", "coronal, R | L\nslice 4", "sagittal, A | P\nslice 1"]


def drawn(figure_and_axes, column: int = 0) -> list[np.ndarray]:
    """What the rows of a column show; of maps the heat."""
    _, axes = figure_and_axes
    return [np.asarray(ax.images[-1].get_array()).squeeze() for ax in axes[:, column]]


def captions(figure_and_axes) -> list[str]:
    return [ax.get_ylabel() for ax in figure_and_axes[1][:, 0]]


def inner(a: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle of a frame; nothing lies around it."""
    top, left = ((f - n) // 2 for f, n in zip(a.shape, size, strict=True))
    middle = a[top : top + size[0], left : left + size[1]]
    assert a.sum() == pytest.approx(middle.sum())
    return middle


def test_slices_go_through_the_highest_voxel_as_radiologists_look_at_them():
    given = slices_figure(VOLUME, {"HR-CAM": SPOT}, affine=CANONICAL)
    assert captions(given) == PLANES
    v = VOLUME[0].numpy()
    # Left is the patient's right, or the front; up is the front, or up.
    axial, coronal, sagittal = (v[:, :, 3].T, v[:, 4].T, v[1].T)
    for shown, expected in zip(drawn(given), (axial, coronal, sagittal), strict=True):
        expected = expected[::-1, ::-1]
        np.testing.assert_allclose(inner(shown, expected.shape), expected, rtol=1e-6)
    for image, heat in zip(drawn(given), drawn(given, 1), strict=True):
        assert image[heat > 0] == pytest.approx(v[1, 4, 3])


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_the_affine_tells_every_orientation(order, signs):
    """The same patient, stored with other axes."""
    turned = [a[0].permute(order) for a in (VOLUME, SPOT)]
    axes = [axis for axis in range(3) if signs[axis] < 0]
    volume, spot = (a.flip(axes) for a in turned)
    affine = torch.zeros(4, 4)
    affine[3, 3] = 1
    for axis, world in enumerate(order):
        affine[world, axis] = 2.0 * signs[axis]
    given = slices_figure(volume, spot, affine=affine)
    expected = slices_figure(VOLUME, SPOT, affine=CANONICAL)
    for column in (0, 1):
        for a, b in zip(drawn(given, column), drawn(expected, column), strict=True):
            np.testing.assert_array_equal(a, b)
    index = dict(zip(order, np.argwhere(spot.numpy())[0], strict=True))
    assert captions(given) == [
        f"{name.split(chr(10))[0]}\nslice {index[world]}"
        for name, world in zip(PLANES, (2, 1, 0), strict=True)
    ]


def test_oblique_axes_are_taken_for_the_nearest():
    angle = np.deg2rad(20)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    for a, b in zip(
        drawn(slices_figure(VOLUME, SPOT, affine=affine)),
        drawn(slices_figure(VOLUME, SPOT, affine=CANONICAL)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b)


def test_thick_slices_are_drawn_as_thick_as_they_are():
    affine = torch.diag(torch.tensor([1.0, 1.0, 3.0, 1.0]))
    mask = SPOT.bool()
    given = slices_figure(VOLUME, SPOT, affine=affine, mask=mask)
    axial, coronal, sagittal = drawn(given)
    assert axial.shape == coronal.shape == sagittal.shape == (15, 6)
    inner(axial, (6, 4))
    inner(coronal, (15, 4))
    outline = given[1][1, 0].collections[0].get_paths()[0].vertices
    assert np.ptp(outline[:, 1]) > 2 * np.ptp(outline[:, 0])


def test_without_an_affine_the_array_is_drawn_as_it_lies():
    given = slices_figure(VOLUME[0].numpy(), {"a": SPOT[0].numpy(), "b": -SPOT[0]})
    assert captions(given) == ["axis 0\nslice 1", "axis 1\nslice 4", "axis 2\nslice 3"]
    v = VOLUME[0].numpy()
    for shown, expected in zip(drawn(given), (v[1], v[:, 4], v[:, :, 3]), strict=True):
        np.testing.assert_allclose(inner(shown, expected.shape), expected, rtol=1e-6)
    assert [ax.get_title() for ax in given[1][0]] == ["image", "a", "b"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"at": (0, 2, 1)}, (0, 2, 1)),
        ({"sign": "negative"}, (3, 0, 4)),
        ({"sign": "all"}, (3, 0, 4)),
    ],
)
def test_another_voxel(options, expected):
    a = SPOT.clone()
    a[0, 3, 0, 4] = -2
    given = slices_figure(VOLUME, a, **options)
    assert captions(given) == [f"axis {i}\nslice {n}" for i, n in enumerate(expected)]


def test_slices_of_one_map_have_one_scale_and_keep_the_volumes_brightness():
    a = SPOT.clone()
    a[0, 1, 4, 0] = 0.5
    given = slices_figure(1000 * VOLUME - 200, a, at=(1, 4, 0), colorbar=True)
    assert drawn(given, 1)[2].max() == 0.5  # in the slice without the highest voxel
    v = (VOLUME[0] - VOLUME.min()) / (VOLUME.max() - VOLUME.min())
    for shown, expected in zip(drawn(given), (v[1], v[:, 4], v[:, :, 0]), strict=True):
        np.testing.assert_allclose(inner(shown, expected.shape), expected, atol=1e-5)
    assert given[0].axes[-1].get_xlabel() == "each method on one scale"


def test_batches_of_one_and_colours():
    given = slices_figure(VOLUME.expand(1, 3, *SIZE), {"A": SPOT[None]}, mask=SPOT[None])
    assert given[1].shape == (3, 2)
    assert given[1][0, 0].images[0].get_array().shape[2] == 3


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"volume": torch.rand(2, 1, *SIZE)}, ValueError, r"volume: got shape .*images\[i\]"),
        ({"volume": torch.rand(2, *SIZE)}, ValueError, r"volume: got shape .*1 or 3 channels"),
        ({"volume": torch.rand(4, 5)}, ValueError, r"volume: got shape \(4, 5\)"),
        ({"maps": SPOT[..., :3]}, ValueError, r"maps\['map'\]: got size \(4, 6, 3\), expected"),
        ({"maps": [SPOT]}, TypeError, "maps: got list"),
        ({"maps": {}}, ValueError, "maps: got none"),
        ({"mask": SPOT[0, 0]}, ValueError, "mask: got shape"),
        ({"at": (0, 0, 5)}, ValueError, r"at: got \(0, 0, 5\), expected a voxel inside \(4, 6, 5"),
        ({"at": (0, 0)}, ValueError, "at: got"),
        ({"affine": torch.zeros(4, 4)}, ValueError, "affine: got .* step along each axis"),
        ({"affine": torch.eye(2)}, ValueError, "affine: got"),
        ({"sign": "both"}, ValueError, "sign: got 'both'"),
    ],
)
def test_refused(changes, error, message):
    with pytest.raises(error, match=message):
        slices_figure(**{"volume": VOLUME, "maps": SPOT, **changes})
