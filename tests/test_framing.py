"""What the layers see of the image, told by noise; and what a fit then says."""

import pytest
import torch
import torch.nn.functional as F
from conftest import fit_quietly
from torch import Tensor, nn

from captum_hrcam import HRCAM
from captum_hrcam.framing import IMAGES, Seen, framing

X = torch.rand(8, 2, 48, 56, generator=torch.Generator().manual_seed(0))
CONV = nn.Conv2d(2, 6, 3, padding=1)
nn.init.normal_(CONV.weight, generator=torch.Generator().manual_seed(1))
PREPARED = {
    "as it is": (lambda x: x, (1, 0), (1, 0)),
    "resized": (lambda x: F.interpolate(x, size=(40, 72)), (1, 0), (1, 0)),
    "strided": (lambda x: F.avg_pool2d(x, 2), (1, 0), (1, 0)),
    "padded": (lambda x: F.pad(x, (4, 4, 4, 4)), (48 / 56, 0), (56 / 64, 0)),
    "padded at the end": (lambda x: F.pad(x, (0, 8, 0, 0)), (1, 0), (56 / 64, -4 / 64)),
    "cropped": (lambda x: x[..., 8:-8, :], (1.2, 0), (1, 0)),  # 48 / 32, if no strip were cut
    "flipped": (lambda x: x.flip(3), (1, 0), (-1, 0)),
    "turned": (lambda x: x.transpose(2, 3), (0, 0), (0, 0)),
}


def seen(prepare, x: Tensor = X, layer: nn.Module = CONV) -> list[Seen]:
    with torch.no_grad():
        return framing(lambda images: layer(prepare(images)).relu(), x)


@pytest.mark.parametrize("name", PREPARED)
def test_images_as_a_model_prepares_them(name):
    prepare, *expected = PREPARED[name]
    found = seen(prepare)
    for got, wanted in zip(found, expected, strict=True):
        assert got.scale == pytest.approx(wanted[0], abs=0.05)
        assert got.offset == pytest.approx(wanted[1], abs=0.03)
        assert got.is_off == (wanted != (1, 0))


@pytest.mark.parametrize("axes", [1, 3])
def test_in_one_and_three_dimensions(axes):
    x = torch.rand(8, 1, *[24] * axes, generator=torch.Generator().manual_seed(0))
    conv = {1: nn.Conv1d, 3: nn.Conv3d}[axes](1, 16, 3, padding=1)
    assert [along.is_off for along in seen(lambda v: v, x, conv)] == [False] * axes
    flipped = seen(lambda v: v.flip(2), x, conv)
    assert flipped[0].scale == pytest.approx(-1, abs=0.1)
    assert [along.is_off for along in flipped] == [True] + [False] * (axes - 1)


def test_layers_that_do_not_tell():
    assert seen(lambda x: x.mean((2, 3), keepdim=True).expand_as(x)) == []  # mixes all places
    assert seen(lambda x: x * 0) == []
    assert seen(lambda x: F.pad(x[..., 16:], (16, 0))) == []  # does not see the first strip at all
    assert seen(lambda x: x * torch.nan) == []
    assert framing(lambda x: x + 1e3, X) == []  # hardly changes


@pytest.mark.parametrize("order", [(2, 3, 0, 1), (1, 0, 3, 2), (3, 1, 2, 0)])
def test_strips_out_of_line_are_no_picture(order):
    assert seen(lambda x: torch.cat([x.chunk(4, 3)[i] for i in order], 3)) == []


def test_cells_that_change_wherever_the_noise_is_are_no_picture():
    place = torch.zeros(48, 56)
    place[10:20, 10:20] = 1
    assert seen(lambda x: x.square().mean((1, 2, 3), keepdim=True) * place.expand_as(x)) == []


@pytest.mark.parametrize("size", [1e-4, 1e4])
def test_the_size_of_features_does_not_matter(size):
    with torch.no_grad():
        found = framing(lambda x: size * CONV(x).relu(), X)
    for got, wanted in zip(found, seen(lambda x: x), strict=True):
        assert got == pytest.approx(wanted, abs=1e-6)


def test_kernels_without_padding_cost_edges_too():
    wide = nn.Conv2d(2, 2, 15, bias=False)
    nn.init.dirac_(wide.weight)
    assert [along.is_off for along in seen(lambda x: x, layer=wide)] == [True, True]


def test_a_coarser_layer_is_held_to_less():
    assert Seen(0.92, 0, 64).is_off
    assert [Seen(scale, 0, 24).is_off for scale in (0.78, 0.8)] == [1, 0]  # 5 of 24 cells
    assert Seen(1, 0.05, 64).is_off
    assert [Seen(1, aside, 24).is_off for aside in (0.1, 0.11)] == [0, 1]


def test_the_finest_layer_is_held_to_a_twentieth_of_a_side_and_half_of_that_aside():
    assert [Seen(scale, 0, 500).is_off for scale in (0.94, 0.96, 1.04, 1.06)] == [1, 0, 0, 1]
    assert [Seen(1, aside, 500).is_off for aside in (-0.03, -0.02, 0.02, 0.03)] == [1, 0, 0, 1]


@pytest.mark.parametrize("seed", range(20))
def test_letters_in_the_corners_of_a_few_images_are_no_other_picture(seed):
    generator = torch.Generator().manual_seed(seed)
    x = 0.3 + 0.1 * torch.randn(IMAGES, 1, 64, 64, generator=generator)
    for image, corner in zip(x, torch.randint(4, (IMAGES,), generator=generator), strict=True):
        image[0, (2, 48)[corner // 2] :, (2, 52)[corner % 2] :][:14, :10] = 1.2
    found = framing(lambda images: (images - 0.8).relu(), x)  # sees hardly anything else
    assert [along.is_off for along in found] == [False, False]


class Prepared(nn.Module):
    def __init__(self, prepare) -> None:
        super().__init__()
        self.prepare, self.conv, self.fc = prepare, nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.conv(self.prepare(x)).relu().mean((2, 3)))


@pytest.mark.parametrize(("name", "warns"), [("as it is", False), ("padded", True)])
def test_the_report_warns(name, warns):
    torch.manual_seed(0)
    y = torch.arange(40) % 2
    x = torch.rand(40, 1, 32, 32)
    x[:, :, 8:14, 8:14] += 2 * y[:, None, None, None]
    hrcam = HRCAM(Prepared(PREPARED[name][0]).eval(), "conv")
    report = fit_quietly(hrcam, [(x, y)]).report
    assert len(report.framing) == 2
    told = [w for w in report.warnings if "does not see the image as it was given" in w]
    assert bool(told) == warns
    if warns:
        assert "axis 0 at +0.8" in told[0]
    assert fit_quietly(hrcam, [(x, y)], place_layers=False).report.framing == []


def test_fewer_than_24_cells_are_not_measured_and_cost_no_pass():
    torch.manual_seed(0)
    model = Prepared(lambda v: v).eval()
    told, passes = [], []
    for size in (24, 23):
        data = [(torch.rand(40, 1, size, size), torch.arange(40) % 2)]
        report = fit_quietly(HRCAM(model, "conv"), data, place_layers=True).report
        told.append(len(report.framing))
        passes.append(report.extra_forwards)
    assert told == [2, 0]
    assert passes[0] - passes[1] == IMAGES * (1 + 2 * 4)  # as they are, and strip by strip


class UNet(nn.Module):
    """Its last layer has the resolution of the image, and sees much of it through the coarse ones,
    which no strip of noise leaves alone."""

    def __init__(self) -> None:
        super().__init__()
        channels = {"d1": (1, 8), "d2": (8, 8), "d3": (8, 16), "d4": (16, 16)}
        channels |= {"u3": (32, 16), "u2": (24, 8), "u1": (16, 8)}
        self.blocks = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())
                for name, (a, b) in channels.items()
            }
        )
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        finer = []
        for name in ("d1", "d2", "d3"):
            finer.append(self.blocks[name](x))
            x = F.max_pool2d(finer[-1], 2)
        x = self.blocks["d4"](x)
        for name in ("u3", "u2", "u1"):
            x = torch.cat([F.interpolate(x, scale_factor=2), finer.pop()], 1)
            x = self.blocks[name](x)
        return self.fc(x.mean((2, 3)))


def test_a_trained_u_net_is_not_said_to_see_another_picture():
    torch.manual_seed(5)
    x, y = 0.3 * torch.randn(120, 1, 32, 32), torch.arange(120) % 2
    for image, (row, column) in zip(x[1::2], torch.randint(2, 26, (60, 2)), strict=True):
        image[0, row : row + 5, column : column + 5] += 2
    model = UNet()
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        some = torch.randint(120, (32,))
        optimiser.zero_grad()
        F.cross_entropy(model(x[some]), y[some]).backward()
        optimiser.step()
    hrcam = HRCAM(model.eval(), "blocks.u1")
    report = fit_quietly(hrcam, [(x, y)], solver="pattern", place_layers=True).report
    assert not any(along.is_off for along in report.framing)


class LessItsMean(nn.Module):
    def forward(self, x):
        return x - x.mean((2, 3), keepdim=True)


def test_the_finest_layer_is_the_finest_that_has_weights():
    torch.manual_seed(0)
    x, y = torch.rand(40, 1, 32, 32), torch.arange(40) % 2
    x[:, :, 8:14, 8:14] += 2 * y[:, None, None, None]
    pad = PREPARED["padded"][0]
    model = nn.Sequential(LessItsMean(), Prepared(lambda v: pad(v.relu()))).eval()
    hrcam = HRCAM(model, ["0", "1.conv"])
    report = fit_quietly(hrcam, [(x, y)], solver="pattern", place_layers=True).report
    assert [bool(w.any()) for w in hrcam.weights.values()] == [False, True]  # all means are 0
    assert [along.is_off for along in report.framing] == [True, True]


def test_whole_numbers_are_not_measured():
    torch.manual_seed(0)
    x = torch.randint(256, (40, 1, 32, 32), dtype=torch.uint8)
    hrcam = HRCAM(Prepared(lambda v: v.float() / 255).eval(), "conv")
    assert fit_quietly(hrcam, [(x, torch.arange(40) % 2)]).report.framing == []
