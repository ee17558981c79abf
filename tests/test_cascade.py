"""Each layer learns where everything deeper finds evidence: against loops, and on a known place."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import BY_NAME, fit_quietly, training_batches
from torch import nn

from captum_hrcam import HRCAM, levels, metrics
from captum_hrcam.cascade import what_lights_up
from captum_hrcam.features import held_out
from captum_hrcam.fusion import Fusion
from captum_hrcam.layer_counts import POWERS, steepest
from captum_hrcam.revisit import Revisit


@pytest.fixture
def without_levels(monkeypatch):
    """Weights as they were learned, but for a temperature of each class."""
    monkeypatch.setattr(levels, "STRENGTH", 1e12)


class Squares(nn.Module):
    """Identity, then averages of 2 x 2 and 4 x 4: three resolutions of the image itself."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.middle, self.coarse = nn.Identity(), nn.AvgPool2d(2), nn.AvgPool2d(2)
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        return self.fc(self.coarse(self.middle(self.fine(x))).mean((2, 3)))


def squares(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A square in channel 0 or 1, which is the class, somewhere; channel 2 is clutter for both."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(0, 0.3, (n, 3, 16, 16))).float()
    masks = torch.zeros(n, 16, 16, dtype=torch.bool)
    for i in range(n):
        row, column = rng.integers(0, 12, 2)
        masks[i, row : row + 4, column : column + 4] = True
        x[i, i % 2, row : row + 4, column : column + 4] += 1
        row, column = rng.integers(0, 12, 2)
        x[i, 2, row : row + 4, column : column + 4] += 2
    return x, torch.arange(n) % 2, masks


@pytest.mark.parametrize("fusion", ["sum", "evidence", "agreement"])
def test_maps_find_the_square_of_the_class_and_not_the_clutter(fusion):
    x, y, _ = squares(120, 0)
    hrcam = fit_quietly(HRCAM(Squares(), ["fine", "middle", "coarse"]), [(x, y)], solver="cascade")
    x_new, y_new, masks = squares(40, 1)
    maps = hrcam.attribute(x_new, y_new, fusion=fusion)[:, 0]
    inside = torch.stack([a[m].mean() for a, m in zip(maps, masks, strict=True)])
    outside = torch.stack([a[~m].mean() for a, m in zip(maps, masks, strict=True)])
    spread = maps.flatten(1).std(1)
    assert ((inside - outside) > spread).float().mean() > 0.95


class Energy(nn.Module):
    """The image, then averages of its squares over 4 x 4 and 8 x 8: the fine layer sees stripes."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.middle, self.coarse = nn.Identity(), nn.AvgPool2d(4), nn.AvgPool2d(2)
        self.fc = nn.Linear(2, 2)
        with torch.no_grad():
            self.fc.weight.copy_(5 * torch.eye(2))

    def forward(self, x):
        return self.fc(self.coarse(self.middle(self.fine(x) ** 2)).mean((2, 3)))


def stripes(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A striped square in channel 0 or 1, which is the class, somewhere in noise."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(0, 0.5, (n, 2, 32, 32))).float()
    masks = torch.zeros(n, 32, 32, dtype=torch.bool)
    for i in range(n):
        row, column = rng.integers(0, 20, 2)
        masks[i, row : row + 12, column : column + 12] = True
        x[i, i % 2, row : row + 12, column : column + 12] += 2 * (torch.arange(12) % 2) - 1
    return x, torch.arange(n) % 2, masks


class TestTexture:
    LAYERS = ("fine", "middle", "coarse")

    def fit(self, solver: str) -> HRCAM:
        x, y, _ = stripes(200, 0)
        return fit_quietly(HRCAM(Energy(), list(self.LAYERS)), [(x, y)], solver=solver)

    def test_auto_leaves_the_layer_out_that_sees_the_stripes(self):
        hrcam = self.fit("auto")
        assert not hrcam.weights["fine"].any()
        assert hrcam.weights["middle"].any(1).all()
        assert (
            "fine left out, as 'fine' sees only the grain of a texture" in hrcam.report.choices[1]
        )
        x, y, masks = stripes(20, 1)
        for fusion in ("sum", "evidence", "agreement"):
            maps = hrcam.attribute(x, y, fusion=fusion)[:, 0]
            assert metrics.pixel_average_precision(maps, masks).mean() > 0.9

    def test_the_others_learn_as_alone_and_the_finer_does_not_count_for_more(self):
        x, y, _ = stripes(200, 0)
        alone = fit_quietly(HRCAM(Energy(), ["middle", "coarse"]), [(x, y)])
        ours = self.fit("auto")
        assert ours.report.solver == alone.report.solver == "cascade"
        longer = {}
        for name in ("middle", "coarse"):
            length = [hrcam.weights[name].norm(dim=1, keepdim=True) for hrcam in (ours, alone)]
            longer[name] = length[0] / length[1]
            torch.testing.assert_close(ours.weights[name], alone.weights[name] * longer[name])
        (by,) = (name for name in POWERS if f"times fineness, {name}:" in str(alone.report))
        assert "layers count by confirmation, as it is: " in str(ours.report)
        twice = torch.full_like(longer["middle"], 2.0) ** POWERS[by]  # a fineness of 2 and 1
        torch.testing.assert_close(longer["coarse"] / longer["middle"], twice)

    def test_a_cascade_that_was_asked_for_keeps_all(self):
        hrcam = self.fit("cascade")
        assert hrcam.weights["fine"].any()
        assert not any("left out" in choice for choice in hrcam.report.choices)

    def test_both_candidates_leave_it_out(self):
        seen = []
        x, y, _ = stripes(200, 0)
        hrcam = HRCAM(Energy(), list(self.LAYERS))
        keep = Revisit.choose
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Revisit, "choose", lambda *a: seen.append(a[1]) or keep(*a))
            fit_quietly(hrcam, [(x, y)])
        assert seen[0].keys() == {"cascade", "pattern"}
        assert not any(head.weights["fine"].any() for head in seen[0].values())


class CoarseFirst(Squares):
    """As a decoder: the coarse map runs before the finer ones."""

    def forward(self, x):
        coarse = self.coarse(F.avg_pool2d(x, 2))
        self.middle(x)
        self.fine(x)
        return self.fc(coarse.mean((2, 3)))


@pytest.mark.parametrize("solver", ["cascade", "auto"])
def test_layers_count_in_the_order_named_not_run(solver):
    x, y, _ = squares(200, 0)
    layers = ["fine", "middle", "coarse"]
    models = CoarseFirst(), Squares()
    models[0].load_state_dict(models[1].state_dict())
    ours, other = (fit_quietly(HRCAM(model, layers), [(x, y)], solver=solver) for model in models)
    assert list(ours.report.resolutions) == layers
    for name in layers:
        torch.testing.assert_close(ours.weights[name], other.weights[name])


@pytest.mark.parametrize("scales", [(1e-3, 1, 1e2), (1e-15, 1e-15, 1e-15)])
def test_maps_do_not_hang_on_the_scale_of_a_channel(scales):
    """Which a norm after it would take away again."""
    x, y, _ = squares(200, 0)
    layers = ["fine", "middle", "coarse"]
    maps = []
    for scale in (torch.ones(3), torch.tensor(scales)):
        hrcam = HRCAM(
            Squares(), layers, reshape_transform=lambda f, s=scale: f * s.reshape(3, 1, 1)
        )
        maps.append(fit_quietly(hrcam, [(x, y)], solver="cascade").attribute(x[:8], y[:8]))
    torch.testing.assert_close(*maps, rtol=1e-3, atol=1e-3 * maps[0].abs().max().item())


def test_a_channel_that_is_all_but_dead_gets_no_weight():
    """It would be raised to the others' size, and drown them in the first image where it fires."""
    x, y, _ = squares(200, 0)
    layers = ["fine", "middle", "coarse"]

    def with_silent(f):
        return torch.cat([f, F.silu(f[:, :1] - 30)], 1)

    hrcam = HRCAM(Squares(), layers, reshape_transform=with_silent)
    fit_quietly(hrcam, [(x, y)], solver="cascade")
    for name in layers:
        assert hrcam.weights[name][:, :3].any()
        assert not hrcam.weights[name][:, 3].any()


class Constant(Squares):
    """Beside the image a layer that says the same of every place of every image."""

    def __init__(self) -> None:
        super().__init__()
        self.constant = nn.Identity()

    def forward(self, x):
        self.constant(torch.full_like(x, 0.3))
        return super().forward(x)


@pytest.mark.parametrize("solver", ["auto", "cascade"])
def test_a_constant_layer_is_named_and_changes_nothing(solver):
    x, y, _ = squares(200, 0)
    layers, told = ["fine", "middle", "coarse"], "layers: constant left out: their feature maps do"
    model = Constant()
    with_it, without = (
        fit_quietly(HRCAM(model, names), [(x, y)], solver=solver)
        for names in (["constant", *layers], layers)
    )
    assert not with_it.weights["constant"].any()
    for name in layers:
        # Rounding differs with the number of channels, and the solver stops before that is gone.
        torch.testing.assert_close(with_it.weights[name], without.weights[name], rtol=1e-4, atol=0)
    assert [c for c in with_it.report.choices if not c.startswith(told)] == without.report.choices
    assert sum(c.startswith(told) for c in with_it.report.choices) == 1


class Hesitant(Squares):
    """Three classes, none of which is ever thought likelier than not."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor([0.1, 0.1, 0.04]).diag())


def test_the_likeliest_class_is_in_an_image_though_no_probability_reaches_a_half():
    x, _, _ = squares(200, 0)
    model, layers = Hesitant(), ["fine", "middle", "coarse"]
    with torch.no_grad():
        likeliest = F.one_hot(model(x).argmax(1), 3).double()
        assert model(x).softmax(1).max() < 0.4
    hrcam = fit_quietly(HRCAM(model, layers), [x], targets="model", solver="cascade")
    told = next(c for c in hrcam.report.choices if c.startswith("layers count by"))
    assert ", 0.000" not in told
    assert likeliest.sum(0).min() > 3


def test_one_layer_alone_has_nothing_to_count_by():
    x, y, _ = squares(200, 0)
    hrcam = HRCAM(Squares(), "coarse")
    choices = fit_quietly(hrcam, [(x, y)]).report.choices
    assert "layers: the only one" in choices
    assert not any(choice.startswith("layers count by") for choice in choices)


class Levelled(nn.Module):
    """The image, then what of it exceeds its own level, over 4 x 4."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Identity(), nn.Sequential(nn.AvgPool2d(4), nn.ReLU())
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        f = self.fine(x)
        return self.fc(self.coarse(f - f.mean((2, 3), keepdim=True)).mean((2, 3)))


@pytest.mark.parametrize(("level", "by"), [(0.0, "as it is"), (0.2, "by its root")])
def test_a_fine_layer_counts_less_where_it_blurs_the_score(level, by):
    """As by a level of each image, which it alone sees."""
    x, y, _ = squares(200, 0)
    x = x + level * torch.randn(200, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    hrcam = fit_quietly(HRCAM(Levelled(), ["fine", "coarse"]), [(x, y)], solver="cascade")
    told = f"layers count by confirmation times fineness, {by}: "
    assert hrcam.report.choices[0].startswith(told)
    spread = {name: s.mean() for name, s in hrcam.head.spread.items()}
    assert (spread["fine"] > spread["coarse"]) == (level == 0)


class TestSteepest:
    """Which power layers count by, of held-out accuracies and likenesses to the fused map."""

    @pytest.mark.parametrize(
        ("right", "like", "best"),
        [
            ((0.9, 0.9, 0.9), (0.7, 0.8, 0.9), 2),
            ((0.9, 0.9, 0.9), (0.7, 0.8, 0.8), 1),  # no more like it
            ((0.9, 0.9, 0.9), (0.9, 0.8, 0.85), 2),  # the first step does not ask for likeness
            ((0.9, 0.885, 0.87), (0.7, 0.8, 0.9), 2),  # each step loses less than .02
            ((0.9, 0.89, 0.86), (0.7, 0.8, 0.9), 1),
            ((0.9, 0.87, 0.9), (0.7, 0.8, 0.9), 0),  # no step is passed over
            ((0.9, 0.9), (0.7, 0.8), 1),  # of a texture
        ],
    )
    def test_climbs_while_the_data_let_it(self, right, like, best):
        assert steepest(list(right), list(like)) == best

    def test_the_square_is_not_for_textures(self):
        told = TestTexture().fit("auto").report.choices
        assert any(line.startswith("layers count by") and "squared" not in line for line in told)


def test_weights_follow_the_definition_in_loops(without_levels):
    """Two layers, by hand: the positive part of the deep layer's pattern, its evidence, then both
    towards their map."""
    case = BY_NAME["vgg2d"]
    layers = ["stage2", "stage3"]
    batches = training_batches(case)
    hrcam = fit_quietly(HRCAM(case.model(), layers), batches, solver="cascade")
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    fit = ~held_out(torch.arange(30))
    x, y = x[fit], F.one_hot(y[fit], 3).double()
    model = case.model().eval()
    with torch.no_grad():
        fine = model.stage2(model.pool1(model.stage1(x))).double()
        deep = model.stage3(model.pool2(fine.float().clone())).double()

    def cells(f):
        return f.transpose(0, 1).flatten(1)

    def standard(weight, f):
        a = torch.einsum("kc,nchw->nkhw", weight, f - f.mean((0, 2, 3), keepdim=True))
        return a / cells(a).std(1, correction=0)[:, None, None]

    c = cells(y[:, :, None, None].expand(-1, -1, *deep.shape[2:])) - y.mean(0)[:, None]
    d = cells(deep) - cells(deep).mean(1, keepdim=True)
    pattern = c @ d.T / d.shape[1] / d.var(1, correction=0).clamp(min=1e-9)  # a dead channel
    pattern = pattern.relu()
    e = standard(pattern, deep).relu()
    pooled = cells(F.adaptive_avg_pool2d(fine, deep.shape[2:]))
    pooled = pooled - pooled.mean(1, keepdim=True)
    taught = (
        (cells(e) - cells(e).mean(1, keepdim=True))
        @ pooled.T
        / pooled.var(1, correction=0).clamp(min=1e-9)
    )

    def up(a):
        return F.interpolate(a, size=case.size, mode="bilinear")

    fineness = torch.tensor([2.0, 1.0]).sqrt()
    fineness = fineness / fineness.sum()
    z = [standard(taught, fine), standard(pattern, deep)]
    fused = 1 / sum(w / F.softplus(up(a)) for w, a in zip(fineness.tolist(), z, strict=True))
    fused = fused * y[:, :, None, None]
    for name, f in zip(layers, (fine, deep), strict=True):
        target, channels = cells(F.adaptive_avg_pool2d(fused, f.shape[2:])), cells(f)
        centred = channels - channels.mean(1, keepdim=True)
        s = centred @ centred.T / centred.shape[1]
        cov = (target - target.mean(1, keepdim=True)) @ centred.T / centred.shape[1]
        weight = torch.linalg.solve(s + torch.diag(s.diagonal().clamp(min=1e-9)), cov.T).T
        ours = F.normalize(hrcam.weights[name], dim=1)
        torch.testing.assert_close(ours, F.normalize(weight, dim=1), rtol=1e-3, atol=1e-3)


def test_class_told_by_what_stays_dark_is_marked_where_it_is():
    """All objects excite the first channel, those of class 1 the least; the second tells little."""
    generator = torch.Generator().manual_seed(0)
    x, y = 0.1 * torch.randn(120, 2, 16, 16, generator=generator), torch.arange(120) % 3
    inside = torch.zeros(120, 16, 16, dtype=torch.bool)
    for i, (row, column) in enumerate(torch.randint(12, (120, 2), generator=generator).tolist()):
        inside[i, row : row + 4, column : column + 4] = True
    for channel, excited in enumerate(((3.0, 1.0, 3.0), (1.0, 1.1, 1.0))):
        x[:, channel] += inside * torch.tensor(excited)[y][:, None, None]
    deep = nn.AvgPool2d(2)
    model = nn.Sequential(nn.Identity(), deep, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    hrcam = HRCAM(model, ["0", "1"])
    fit_quietly(hrcam, [(x, y)], solver="cascade", n_classes=3)
    maps, of_one = hrcam.attribute(x, y)[:, 0], y == 1
    assert maps[of_one][inside[of_one]].mean() > maps[of_one][~inside[of_one]].mean() + 1


def test_class_that_nothing_lights_up_for_keeps_its_pattern():
    rows = torch.tensor([[-1.0, 2.0], [-1.0, -2.0]])
    assert what_lights_up(rows).tolist() == [[0, 2], [-1, -2]]


@pytest.mark.parametrize("name", ["vgg2d", "residual2d", "depthwise1d"])
def test_layers_are_scaled_by_how_well_the_deeper_ones_confirm_them(name, without_levels):
    case = BY_NAME[name]
    batches = training_batches(case)
    hrcam = HRCAM(case.model(), case.layers)
    fit_quietly(hrcam, batches, solver="cascade", place_layers=False)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    fit = ~held_out(torch.arange(30))
    x, y = x[fit], y[fit]
    maps = hrcam._native_maps(hrcam.head, (x,), (), None, Fusion())
    over_cells = [0, *range(2, x.ndim)]
    deviation = {n: a.double().std(over_cells, correction=0) for n, a in maps.items()}
    z = []
    for n, a in maps.items():
        centred = a - a.mean(over_cells, keepdim=True)
        shape = (1, 3, *[1] * (x.ndim - 2))
        z.append((centred / deviation[n].reshape(shape))[torch.arange(len(x)), y][:, None])
    mode = {3: "linear", 4: "bilinear"}[x.ndim]

    def up(a, size):
        return a if a.shape[2:] == size else F.interpolate(a, size=size, mode=mode)

    told = hrcam.report.choices[0]
    (power,) = (p for name, p in POWERS.items() if f"times fineness, {name}:" in told)
    sizes = [a.shape[2:] for a in z]
    share = [len({s for s in sizes if s <= own}) / sizes.count(own) for own in sizes]
    expected = []
    for i, a in enumerate(z[:-1]):
        size = z[i + 1].shape[2:]
        deeper = sum(up(b, size) for b in z[i + 1 :])
        pooled = {3: F.adaptive_avg_pool1d, 4: F.adaptive_avg_pool2d}[x.ndim](a, size)
        r = np.corrcoef(pooled.flatten().numpy(), deeper.flatten().numpy())[0, 1]
        expected.append((max(r, 0.01) * share[i]) ** power)
    expected = torch.tensor([*expected, share[-1] ** power]).double()
    raised = [up(b, sizes[0]) for b in z]
    doubt = sum(w**0.5 / F.softplus(b) for w, b in zip(share, raised, strict=True))
    fused = sum(w**0.5 for w in share) / doubt
    total = sum(e * b for e, b in zip(expected, raised, strict=True))
    likeness = np.corrcoef(total.flatten().numpy(), fused.flatten().numpy())[0, 1]
    (name,) = (name for name, p in POWERS.items() if p == power)
    shown = told.split(f"{name} ")[-1].split("; ")[0]  # accuracy, likeness
    assert float(shown.split(", ")[1]) == pytest.approx(likeness, abs=0.002)
    for c in range(3):
        ours = torch.stack([deviation[n][c] for n in maps])
        torch.testing.assert_close(ours / ours.sum(), expected / expected.sum(), rtol=0.01, atol=0)


@pytest.mark.parametrize("name", ["vgg1d", "depthwise2d", "residual3d"])
def test_any_dimension_and_no_class_without_a_map(name):
    case = BY_NAME[name]
    hrcam = fit_quietly(HRCAM(case.model(), case.layers), training_batches(case), solver="cascade")
    maps = hrcam.class_maps(case.images(), fusion="agreement")
    assert torch.isfinite(maps).all()
    assert (maps.flatten(2).std(2) > 0).all()
    assert hrcam.head.centred is False


@pytest.mark.parametrize(
    ("loss", "low", "high"), [("cross_entropy", 0.3, 0.7), ("binary_cross_entropy", 0, 0.5)]
)
def test_a_class_is_in_an_image_from_a_half_on(loss, low, high, without_levels):
    """So softer labels give the same weights, but for their size."""
    x, y, _ = squares(120, 0)
    layers, hard = ["fine", "middle", "coarse"], F.one_hot(y).double()
    options = {"solver": "cascade", "place_layers": False, "loss": loss}
    of_hard, of_soft = (
        fit_quietly(HRCAM(Squares(), layers), [(x, rows)], **options).weights
        for rows in (hard, low + (high - low) * hard)
    )
    for name in layers:
        one, other = (F.normalize(weights[name], dim=1) for weights in (of_hard, of_soft))
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_several_labels_and_one_logit():
    case = BY_NAME["vgg2d"]
    x = torch.cat([x for x, _ in training_batches(case)])
    rows = torch.randint(2, (30, 3), generator=torch.Generator().manual_seed(0))
    loss = {"loss": "binary_cross_entropy", "solver": "cascade"}
    several = fit_quietly(HRCAM(case.model(), case.layers), [(x, rows)], **loss)
    assert several.class_maps(x, fusion="agreement").shape == (30, 3, *case.size)
    one = nn.Sequential(case.model().stage1, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    single = fit_quietly(HRCAM(one, "0"), [(x, rows[:, 0])], **loss)
    assert single.attribute(x, fusion="agreement").shape == (30, 1, *case.size)
