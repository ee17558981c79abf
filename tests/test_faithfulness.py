"""Faithfulness without masks: each figure against a slow replica, and a model made by hand."""

import functools
import itertools
import math
import warnings

import captum.metrics
import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel, Saliency
from cases import TwoInputs
from conftest import BY_NAME, State, fit_quietly, training_batches
from torch import nn

from captum_hrcam import HRCAM, compare
from captum_hrcam.faithfulness import (
    deletion,
    head_kept,
    head_refitted,
    infidelity,
    insertion,
    randomization,
    rank_correlation,
    road,
    sensitivity_max,
    ssim,
)
from captum_hrcam.faithfulness.reset import draw_anew, top_down
from captum_hrcam.perturbation import blur, marked

SIZES = [(13,), (6, 7), (3, 4, 5)]
CURVES = {"deletion": deletion, "insertion": insertion}
FIGURES = {**CURVES, "road": road, "infidelity": infidelity}
PERCENTILES = (20, 40, 60, 80)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def linear_model(size, channels=2, k=3):
    """Logits that are linear in every pixel, so that each of them matters."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(channels * math.prod(size), k)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator(3)))
    return model


def batch(size, n=3, channels=2):
    draw = functools.partial(torch.randn, generator=generator(), dtype=torch.float64)
    return draw(n, channels, *size), draw(n, 1, *size)


def softmax_of(model, image, c):
    logits = model(image[None])[0].tolist()
    return math.exp(logits[c]) / sum(map(math.exp, logits))


def spot():
    """(model, images, maps): the model sees a bright square on noise, and only its pixels."""
    images = 0.1 * torch.randn(4, 1, 16, 16, generator=generator())
    maps = torch.zeros(4, 1, 16, 16)
    maps[..., 4:8, 6:10] = 1
    images = images + 2 * maps
    maps = maps + 1e-3 * torch.rand(maps.shape, generator=generator(1))  # no ties

    class Spot(nn.Module):
        def forward(self, x):
            seen = x[..., 4:8, 6:10].mean((1, 2, 3))
            return torch.stack([1.5 - seen, seen - 1.5], 1) * 4

    return Spot(), images, maps


class TestCurves:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("name", CURVES)
    def test_area_is_the_slow_trapezoid(self, name, size):
        model, (x, maps), target = linear_model(size), batch(size), [0, 2, 1]
        fractions = (0, 0.1, 0.35, 1)
        ground, shown = (x, blur(x)) if name == "deletion" else (blur(x), x)
        given = CURVES[name](model, x, maps, target, fractions)
        assert given.dtype == np.float64
        for i, c in enumerate(target):
            heights = []
            for fraction in fractions:
                order = sorted(range(maps[i].numel()), key=lambda p: -maps[i].flatten()[p])
                image = ground[i].flatten(1).clone()
                for p in order[: round(fraction * len(order))]:
                    image[:, p] = shown[i].flatten(1)[:, p]
                heights.append(softmax_of(model, image.reshape(x[i].shape), c))
            area = sum(
                (b - a) * (heights[k] + heights[k + 1]) / 2
                for k, (a, b) in enumerate(itertools.pairwise(fractions))
            )
            assert given[i] == pytest.approx(area)

    def test_default_is_twenty_steps_and_a_part_is_its_mean_height(self):
        model, (x, maps) = linear_model((6, 7)), batch((6, 7))
        steps = np.linspace(0, 1, 21)
        np.testing.assert_allclose(deletion(model, x, maps, 1), deletion(model, x, maps, 1, steps))
        # Too narrow for a pixel to go: the curve is flat at the image's own probability.
        part = deletion(model, x, maps, 1, (0, 0.005, 0.01))
        np.testing.assert_allclose(part, [softmax_of(model, image, 1) for image in x])

    @pytest.mark.parametrize("flat", [False, True])
    def test_one_output_is_a_sigmoid(self, flat):
        model, (x, maps) = linear_model((6, 7), k=1), batch((6, 7))
        forward = (lambda images: model(images)[:, 0]) if flat else model
        two = nn.Sequential(model, nn.ConstantPad1d((1, 0), 0.0))  # softmax of (0, s) is sigmoid(s)
        for curve in CURVES.values():
            expected = curve(two, x, maps, 1)
            np.testing.assert_allclose(curve(forward, x, maps), expected)
            np.testing.assert_allclose(curve(forward, x, maps, 0), expected)


@pytest.mark.parametrize("size", SIZES)
def test_each_figure_is_its_images_own_whatever_the_batch(size):
    model, (x, maps) = linear_model(size), batch(size)

    def figures(x, maps):
        return {
            "deletion": deletion(model, x, maps, 1),
            "road": road(model, x, maps, 1, noise=0.5),
            "infidelity": infidelity(model, x, maps, 1, noise=0.5),
            "sensitivity": sensitivity_max(lambda x, **_: x**2, x, 1, radius=0.5),
        }

    alone = [figures(x[i : i + 1], maps[i : i + 1]) for i in range(len(x))]
    for name, together in figures(x, maps).items():
        one_by_one = np.concatenate([each[name] for each in alone])
        np.testing.assert_allclose(together, one_by_one, rtol=1e-4, atol=1e-7, err_msg=name)


class TestHandMadeModel:
    def test_map_of_the_pixels_it_uses_beats_its_negative(self):
        model, x, maps = spot()
        assert (deletion(model, x, maps, 1) < deletion(model, x, -maps, 1) - 0.5).all()
        assert (insertion(model, x, maps, 1) > insertion(model, x, -maps, 1) + 0.3).all()
        assert (road(model, x, maps, 1) > 0.3).all()
        assert (road(model, x, -maps, 1) < -0.3).all()

    def test_constant_map_tells_road_nothing(self):
        model, x, _ = spot()
        for constant in (torch.zeros(4, 1, 16, 16), torch.full((4, 1, 16, 16), 7.0)):
            assert (road(model, x, constant, 1) == 0).all()
            assert np.isfinite(deletion(model, x, constant, 1)).all()


class Recorder(nn.Module):
    """Keeps the images that it is shown."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x.clone())
        return x.flatten(1)[:, :3]


def slow_imputation(image, removed):
    """Each removed pixel the weighted mean of its neighbours, as one dense system."""
    shape = tuple(removed.shape)
    by_distance = {1: [0, 1 / 2], 2: [0, 1 / 6, 1 / 12], 3: [0, 1 / 6]}[len(shape)]
    pixels = list(itertools.product(*map(range, shape)))
    system, right = np.eye(len(pixels)), np.zeros((len(pixels), len(image)))
    for row, p in enumerate(pixels):
        if not removed[p]:
            right[row] = [float(channel[p]) for channel in image]
            continue
        near = {}
        for column, q in enumerate(pixels):
            steps = [abs(i - j) for i, j in zip(p, q, strict=True)]
            if max(steps) == 1 and sum(steps) < len(by_distance):
                near[column] = by_distance[sum(steps)]
        for column, weight in near.items():
            system[row, column] -= weight / sum(near.values())
    solution = np.linalg.solve(system, right)
    return torch.from_numpy(solution.T.reshape(tuple(image.shape)))


class TestRoad:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("order", ["MoRF", "LeRF"])
    def test_imputation_is_the_dense_solution(self, size, order):
        (x, maps), model = batch(size), Recorder()
        road(model, x, maps, 0, PERCENTILES, order=order, noise=0)
        assert len(model.seen) == len(PERCENTILES)
        for p, images in zip(PERCENTILES, model.seen, strict=True):
            removed = marked(maps if order == "MoRF" else -maps, p / 100)[:, 0] > 0
            for i in range(3):
                expected = slow_imputation(x[i], removed[i])
                torch.testing.assert_close(images[i], expected, rtol=1e-4, atol=1e-4)
                assert torch.equal(images[i][:, ~removed[i]], x[i][:, ~removed[i]])

    def test_figures_are_means_over_percentiles(self):
        model, (x, maps) = linear_model((6, 7)), batch((6, 7))
        left = {}
        for order in ("MoRF", "LeRF"):
            recorder = Recorder()
            road(recorder, x, maps, 0, (20, 50), order=order)
            shares = [[softmax_of(model, image, 2) for image in seen] for seen in recorder.seen]
            left[order] = np.mean(shares, 0)
            given = road(model, x, maps, 2, (20, 50), order=order)
            np.testing.assert_allclose(given, left[order])
        combined = road(model, x, maps, 2, (20, 50))
        np.testing.assert_allclose(combined, (left["LeRF"] - left["MoRF"]) / 2)

    def test_noise_is_on_removed_pixels_alone_and_follows_the_seed(self):
        x, maps = batch((16, 16), n=8)

        def shown(**options):
            model = Recorder()
            road(model, x, maps, 0, (40,), order="MoRF", **options)
            return model.seen[0]

        noise = shown(noise=0.5, seed=1) - shown(noise=0)
        removed = (marked(maps, 0.4) > 0).expand_as(noise)
        assert (noise[~removed] == 0).all()
        assert noise[removed].std() == pytest.approx(0.5, rel=0.1)
        assert torch.equal(shown(seed=1), shown(seed=1))
        assert not torch.equal(shown(seed=1), shown(seed=2))


class TestCaptumMetrics:
    def test_infidelity_is_the_slow_mean_square(self):
        model, (x, maps) = linear_model((6, 7), channels=3), batch((6, 7), channels=3)
        target = [0, 2, 1]
        drawn = []

        def perturb(images):
            shift = torch.randn(images.shape, generator=generator(9), dtype=images.dtype)
            drawn.append(shift)
            return shift, images - shift

        model.requires_grad_(False)
        for normalize in (False, True):
            drawn.clear()
            given = infidelity(
                model, x, maps, target, perturb_func=perturb, samples=4, normalize=normalize
            )
            for i, c in enumerate(target):
                said, told = [], []
                for shift in drawn:
                    said.append(float((shift[i].mean(0) * maps[i, 0]).sum()))
                    told.append(float((model(x[i : i + 1]) - model((x - shift)[i : i + 1]))[0, c]))
                said, told = np.array(said), np.array(told)
                scale = (said @ told) / (said @ said) if normalize else 1
                assert given[i] == pytest.approx(np.mean((scale * said - told) ** 2))

    @pytest.mark.parametrize("size", SIZES)
    def test_summed_gradient_has_no_infidelity_on_a_linear_model(self, size):
        model, (x, maps) = linear_model(size), batch(size)
        gradient = model[1].weight[1].reshape(1, 2, *size).sum(1, keepdim=True).expand_as(maps)
        assert (infidelity(model, x, gradient, 1, normalize=False) < 1e-20).all()
        assert (infidelity(model, x, 5 * gradient, 1) < 1e-12).all()  # whatever its scale
        assert (infidelity(model, x, 5 * gradient, 1, normalize=False) > 1e-3).all()
        assert (infidelity(model, x, maps, 1) > 1e-4).all()

    def test_zero_map_is_as_unfaithful_as_the_change_is_large(self):
        model, (x, maps) = linear_model((6, 7)), batch((6, 7))
        zero = torch.zeros_like(maps)
        given = infidelity(model, x, zero, 1)
        np.testing.assert_allclose(given, infidelity(model, x, zero, 1, normalize=False))
        assert (given > 0).all()

    def test_sensitivity_is_captums_on_the_compared_map(self):
        case = BY_NAME["vgg2d"]
        model, x = case.model().eval(), case.images()
        method, draw = Saliency(model), generator(4)

        def nearby(images):
            return images + 0.05 * (2 * torch.rand(images[:1].shape, generator=draw) - 1)

        def summed(images, target):
            images = images[0] if isinstance(images, tuple) else images
            return (method.attribute(images, target).sum(1, keepdim=True),)

        expected = captum.metrics.sensitivity_max(
            summed, x, nearby, n_perturb_samples=3, max_examples_per_batch=4, target=[0, 1, 2, 0]
        )
        given = sensitivity_max(method, x, [0, 1, 2, 0], radius=0.05, samples=3, seed=4)
        np.testing.assert_allclose(given, expected.numpy(), rtol=1e-5)

    def test_sensitivity_of_an_image_is_its_own_whatever_the_batch(self):
        def tripled(inputs, **_):
            return 3 * inputs

        x = torch.rand(4, 1, 6, 7, generator=generator(1)) * torch.tensor([1.0, 5, 0.2, 9]).reshape(
            4, 1, 1, 1
        )
        given = sensitivity_max(tripled, x, 0, radius=0.02, samples=20)
        # |3 e| / |3 x| with e uniform in -r..r: the root mean square of e is r / sqrt(3)
        expected = 0.02 / 3**0.5 * 42**0.5 / x.flatten(1).norm(dim=1)
        np.testing.assert_allclose(given, expected.numpy(), rtol=0.35)

    def test_sensitivity_of_a_map_that_ignores_the_image_is_zero(self):
        ramp = torch.arange(42.0).reshape(1, 1, 6, 7)
        given = sensitivity_max(
            lambda inputs, **_: ramp.expand(len(inputs), 1, 6, 7), batch((6, 7))[0], 1
        )
        assert given.tolist() == [0, 0, 0]

    def test_run_on_hrcam(self):
        case = BY_NAME["vgg3d"]
        hrcam = fit_quietly(HRCAM(case.model(), case.layers), training_batches(case))
        x = case.images()
        far = sensitivity_max(hrcam, x, 1, radius=0.5)
        near = sensitivity_max(hrcam, x, 1, radius=1e-3)
        assert (near > 0).all()
        assert (near < far).all()
        assert infidelity(hrcam.forward_func, x, hrcam.attribute(x, 1), 1).shape == (4,)


def slow_ssim(a, b):
    """Plain windows, one after the other."""
    a, b = ((m - m.min()) / (m.max() - m.min()) for m in (a.numpy(), b.numpy()))
    window = [min(7, n) for n in a.shape]
    values = []
    for corner in itertools.product(
        *(range(n - w + 1) for n, w in zip(a.shape, window, strict=True))
    ):
        cut = tuple(slice(c, c + w) for c, w in zip(corner, window, strict=True))
        p, q = a[cut], b[cut]
        covariance = ((p - p.mean()) * (q - q.mean())).mean()
        top = (2 * p.mean() * q.mean() + 1e-4) * (2 * covariance + 9e-4)
        values.append(top / ((p.mean() ** 2 + q.mean() ** 2 + 1e-4) * (p.var() + q.var() + 9e-4)))
    return np.mean(values)


class TestSimilarity:
    @pytest.mark.parametrize("size", [(15,), (9, 12), (8, 5, 9)])
    def test_ssim_is_the_slow_one(self, size):
        (_, a), (_, noise) = batch(size), batch(size, n=3, channels=1)
        b = a + 0.5 * noise.flip(0)
        expected = [slow_ssim(p, q) for p, q in zip(a[:, 0], b[:, 0], strict=True)]
        np.testing.assert_allclose(ssim(a, b), expected)
        np.testing.assert_allclose(ssim(a, 3 * a + 2), 1)

    def test_rank_correlation_is_of_ranks_with_ties(self):
        _, a = batch((6, 7))
        a, b = (2 * a).round(), a.flip(2).round()

        def ranks(m):
            values = m.flatten().tolist()
            return [sum(u < v for u in values) + sum(u == v for u in values) / 2 for v in values]

        expected = [np.corrcoef(ranks(p), ranks(q))[0, 1] for p, q in zip(a, b, strict=True)]
        np.testing.assert_allclose(rank_correlation(a, b), expected)

    def test_constant_maps(self):
        a, flat = batch((9, 9))[1], torch.full((3, 1, 9, 9), 4.0)
        np.testing.assert_allclose(ssim(flat, flat), 1)
        assert (ssim(a, flat) < 0.1).all()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.isnan(rank_correlation(a, flat)).all()

    @pytest.mark.parametrize("similarity", [ssim, rank_correlation])
    def test_other_shapes_are_refused(self, similarity):
        with pytest.raises(ValueError, match="maps: got shapes"):
            similarity(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 9))
        with pytest.raises(ValueError, match="maps: got shapes"):
            similarity(torch.zeros(8, 8), torch.zeros(8, 8))


@pytest.fixture(scope="module")
def trained() -> tuple[HRCAM, list]:
    """HRCAM on a small CNN that tells bright left halves from bright right ones."""
    case = BY_NAME["vgg2d"]
    images = torch.randn(96, 2, 8, 12, generator=generator(7))
    labels = torch.arange(96) % 3
    for c in range(3):
        images[labels == c, :, :, 4 * c : 4 * c + 4] += 2
    loader = list(zip(images.split(32), labels.split(32), strict=True))
    model = case.model()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(15):
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    optimizer.zero_grad()
    # Not "auto", whose choice looks at the model's outputs: a random last layer may change it.
    return fit_quietly(HRCAM(model.eval(), case.layers), loader, solver="cascade"), loader


class TestRandomization:
    def table(self, trained, **options):
        hrcam, loader = trained
        methods = {
            "kept": head_kept(hrcam),
            "anew": head_refitted(hrcam, loader, solver="cascade"),
            "gradient": Saliency,
        }
        return randomization(hrcam.forward_func, methods, loader[0][0][:6], target=1, **options)

    def test_curve_starts_at_one_and_falls(self, trained):
        table = self.table(trained)
        assert list(table.columns) == ["method", "stage", "layer", "image", "metric", "value"]
        methods = ["kept", "anew", "gradient"]
        layers = ["", "fc", "stage3.1", "stage3.0", "stage2.0", "stage1.0"]
        assert list(dict.fromkeys(table["layer"])) == layers
        assert len(table) == 3 * len(layers) * 6 * 2
        curve = table.groupby(["method", "metric", "stage"])["value"].mean()
        for method, metric in itertools.product(methods, ["ssim", "rank_correlation"]):
            assert curve[method, metric, 0] == pytest.approx(1, abs=1e-6)
            assert curve[method, metric, len(layers) - 1] < 0.8
        # HRCAM's head is not the model's last layer: without it the feature maps are the same.
        for method in ("kept", "anew"):
            assert curve[method, "ssim", 1] == pytest.approx(1, abs=1e-6)
        assert curve["gradient", "ssim", 1] < 0.95
        assert curve["kept", "ssim", 5] != pytest.approx(curve["anew", "ssim", 5], abs=1e-3)

    def test_stage_is_the_map_on_a_model_randomised_so_far(self, trained):
        hrcam, loader = trained
        x = loader[0][0][:6]
        table = self.table(trained, layers=["stage3", "fc"])
        assert list(dict.fromkeys(table["layer"])) == ["", "fc", "stage3"]
        copies = []

        def build(copy):
            copies.append({k: v.clone() for k, v in copy.state_dict().items()})
            return Saliency(copy)

        again = randomization(hrcam.forward_func, build, x, 1, layers=["stage3", "fc"])
        model = BY_NAME["vgg2d"].model().eval()
        model.load_state_dict(copies[-1])
        own = compare(Saliency(hrcam.forward_func), x, 1)["Saliency"]
        last = compare(Saliency(model), x, 1)["Saliency"]
        for rows in (again, table[table["method"] == "gradient"]):
            values = rows[(rows["stage"] == 2) & (rows["metric"] == "ssim")]["value"]
            np.testing.assert_allclose(values, ssim(own, last))
        before = hrcam.forward_func.state_dict()
        changed = {k.split(".")[0] for k, v in copies[-1].items() if not torch.equal(v, before[k])}
        assert changed == {"fc", "stage3"}

    def test_seed_decides(self, trained):
        first, second, other = (self.table(trained, seed=seed) for seed in (0, 0, 1))
        assert first.equals(second)
        assert not first.equals(other)

    def test_method_that_draws_shows_at_stage_0(self, trained):
        hrcam, loader = trained

        def noisy(copy):
            tunnel = NoiseTunnel(Saliency(copy))
            return lambda x, target, additional_forward_args: tunnel.attribute(
                x, nt_samples=1, stdevs=1.0, target=target
            )

        state = torch.get_rng_state()
        table = randomization(hrcam.forward_func, noisy, loader[0][0][:6], 1, layers=["fc"])
        assert table[table["stage"] == 0]["value"].max() < 0.999
        assert torch.equal(state, torch.get_rng_state())

    def test_model_and_hrcam_are_left_as_they_were(self, trained):
        hrcam, _ = trained
        hrcam.forward_func.train()
        try:
            head, state = hrcam.head, State(hrcam.forward_func)
            self.table(trained)
            state.assert_unchanged()
            assert hrcam.head is head
        finally:
            hrcam.forward_func.eval()

    def test_layers_inputs_and_transforms_go_along(self):
        case = BY_NAME["vgg2d"]
        model = case.model().eval()
        hrcam = HRCAM(
            model,
            [model.stage2, model.stage3],
            attribute_to_layer_input=True,
            reshape_transform=lambda f: f.flip(2),
        )
        loader = training_batches(case)
        fit_quietly(hrcam, loader)
        methods = {"kept": head_kept(hrcam), "anew": head_refitted(hrcam, loader, solver="cascade")}
        for build in methods.values():
            own = hrcam.attribute(case.images(), 1)
            torch.testing.assert_close(build(case.model().eval()).attribute(case.images(), 1), own)

    def test_several_inputs(self):
        inputs = (torch.randn(4, 2, 8, 8), torch.randn(4, 1, 4, 6))
        table = randomization(
            TwoInputs(), Saliency, inputs, 1, additional_forward_args=2.0, layers=["conv2"]
        )
        assert table[table["stage"] == 1]["value"].max() < 0.999


class Awkward(nn.Module):
    """Parameters that no reset reaches: a token, a scale, attention, weight norm, a bare weight."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.arange(8.0))
        self.scale = nn.Parameter(torch.ones(8))
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 8, 3))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.bare = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = self.conv(x).movedim(1, 2) + self.token
        x = self.attention(x, x, x)[0] * self.scale
        return self.fc(nn.functional.linear(x.mean(1), self.bare.weight))


class TestReset:
    def test_order_is_that_of_the_run_not_of_the_definition(self):
        class Backwards(nn.Module):
            def __init__(self):
                super().__init__()
                self.last, self.first = nn.Conv1d(4, 2, 1), nn.Conv1d(1, 4, 1)
                self.unused = nn.Linear(2, 2)

            def forward(self, x):
                return self.last(self.first(x))

        assert top_down(Backwards(), (torch.zeros(1, 1, 3),)) == ["last", "first", "unused", ""]

    def test_nothing_but_equal_values_survives(self):
        model = Awkward()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        draw_anew(model, seed=0)
        kept = {k for k, v in model.state_dict().items() if torch.equal(v, before[k])}
        equal = {k for k, v in before.items() if v.min() == v.max()}
        assert kept <= equal
        assert "scale" in kept
        assert sorted(model.token.tolist()) == list(range(8))

    def test_every_parameter_has_a_stage_which_changes_no_other(self):
        model, states = Awkward(), []

        def build(copy):
            states.append({k: p.clone() for k, p in copy.named_parameters()})
            return lambda x, **_: x

        x = torch.randn(2, 2, 9, generator=generator())
        table = randomization(model, {"any": build}, x, 0)
        layers = table.groupby("stage")["layer"].first().tolist()
        own = {n for n, m in model.named_modules() if any(True for _ in m.parameters(False))}
        assert sorted(layers[1:]) == sorted(own)
        assert layers[1] == "fc"
        assert layers[-1] == ""  # the model's own token and scale, as it begins first
        for layer, before, after in zip(layers[1:], states[1:-1], states[2:], strict=True):
            changed = {k for k in before if not torch.equal(before[k], after[k])}
            assert {k.rpartition(".")[0] for k in changed} == {layer}

    def test_global_random_state_is_not_touched(self):
        model = Awkward()
        state = torch.get_rng_state()
        draw_anew(model, seed=0)
        assert torch.equal(state, torch.get_rng_state())

    def test_batchnorm_forgets_its_statistics(self):
        norm = nn.BatchNorm1d(2)
        norm(torch.randn(9, 2) + 5)
        draw_anew(norm, seed=0)
        assert norm.running_mean.tolist() == [0, 0]


class Strict(nn.Module):
    """A model with dropout that notes whether it ever ran in training mode."""

    def __init__(self):
        super().__init__()
        self.conv, self.drop = nn.Conv2d(2, 4, 3), nn.Dropout()
        self.fc = nn.Linear(4, 3)
        self.modes = set()

    def forward(self, x):
        self.modes.add(self.training)
        return self.fc(self.drop(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize("name", [*FIGURES, "sensitivity_max"])
def test_model_and_random_state_are_left_as_they_were(name):
    model = Strict().train()
    model.conv.eval()
    x, maps = (t.float() for t in batch((8, 8)))
    x.requires_grad_()
    state = State(model)
    if name == "sensitivity_max":
        given = sensitivity_max(Saliency(model), x.detach(), 1)
    else:
        given = FIGURES[name](model, x, maps, 1)
    state.assert_unchanged()
    assert model.modes == {False}
    assert x.grad is None
    assert given.shape == (3,)
    assert given.dtype == np.float64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_figures_on_a_gpu():
    model, (x, maps) = linear_model((6, 7)), batch((6, 7))
    here = {name: figure(model, x, maps, 1) for name, figure in FIGURES.items()}
    model, x = model.cuda(), x.cuda()
    state = torch.cuda.get_rng_state()
    for name, figure in FIGURES.items():
        np.testing.assert_allclose(figure(model, x, maps, 1), here[name], rtol=1e-6)
    assert sensitivity_max(Saliency(model), x, 1).shape == (3,)
    on_cpu, on_gpu = nn.Linear(3, 2), nn.Linear(3, 2).cuda()
    draw_anew(on_cpu, seed=0)
    draw_anew(on_gpu, seed=0)
    assert torch.equal(on_cpu.weight, on_gpu.weight.cpu())
    assert torch.equal(state, torch.cuda.get_rng_state())


@pytest.mark.parametrize("name", FIGURES)
class TestBadInput:
    """Refused before the model runs."""

    def refused(self, name, error, match, forward=None, inputs=None, maps=None, **options):
        x, given = batch((6, 7))
        model = Recorder() if forward is None else forward
        with pytest.raises(error, match=match):
            FIGURES[name](
                model,
                x if inputs is None else inputs,
                given if maps is None else maps,
                0,
                **options,
            )
        assert getattr(model, "seen", []) == []

    def test_maps(self, name):
        _, maps = batch((6, 7))
        for bad in (maps[:2], maps[:, 0], maps[..., 1:], maps.expand(3, 2, 6, 7)):
            self.refused(name, ValueError, r"maps: got shape .* expected \(3, 1, 6, 7\)", maps=bad)
        maps[0, 0, 0, 0] = float("nan")
        self.refused(name, ValueError, "maps: got NaN or infinity", maps=maps)

    def test_inputs(self, name):
        x, _ = batch((6, 7))
        self.refused(name, TypeError, "inputs: got tuple", inputs=(x,))
        self.refused(name, ValueError, "of torch.int64, expected floats", inputs=x.long())
        self.refused(name, ValueError, "inputs: got shape", inputs=x[:0])
        self.refused(name, ValueError, r"inputs: got shape \(3, 2\)", inputs=x[..., 0, 0])

    def test_forward_func(self, name):
        self.refused(name, TypeError, "forward_func: got str", forward="model")
        for bad in (lambda x: x, lambda x: x[:2].flatten(1), lambda x: {"logits": x}):
            self.refused(name, ValueError, r"expected logits \(N, K\)", forward=bad)

    def test_target(self, name):
        x, maps = batch((6, 7))
        for bad in (None, 3, [0, 1], "1"):
            with pytest.raises(AssertionError, match=r"(?i)target"):
                FIGURES[name](Recorder(), x, maps, bad)

    def test_own_options(self, name):
        if name in CURVES:
            for bad in ((), (0.5,), (0, 0.5, 0.5), (1, 0), (-0.1, 1), (0, 1.1), (0, math.nan)):
                self.refused(name, ValueError, "fractions: got", fractions=bad)
        elif name == "road":
            for bad in ((), (0,), (100,), (20, 120), (99.9,), (math.nan,)):
                self.refused(name, ValueError, "percentiles: got", percentiles=bad)
            self.refused(name, ValueError, "order: got 'first'", order="first")
            self.refused(name, ValueError, "noise: got -1", noise=-1)
        else:
            self.refused(name, ValueError, "noise: got 0", noise=0)
            self.refused(name, ValueError, "samples: got 0", samples=0)
            if name == "infidelity":
                self.refused(name, ValueError, "samples: got 1", samples=1)


class TestBadRandomization:
    def refused(self, error, match, model=None, methods=Saliency, **options):
        case = BY_NAME["vgg2d"]
        with pytest.raises(error, match=match):
            randomization(model or case.model(), methods, case.images(), 1, **options)

    def test_arguments(self):
        self.refused(TypeError, "model: got function", model=lambda x: x)
        self.refused(ValueError, "methods: got none", methods={})
        self.refused(TypeError, "methods: 'a' is int", methods={"a": 1})
        self.refused(ValueError, "no layer 'stage9'", layers=["stage9"])
        self.refused(ValueError, "no layer 'pool1' with parameters", layers=["pool1"])
        self.refused(ValueError, "layers: got 'fc'", layers="fc")
        self.refused(ValueError, r"layers: got \[\]", layers=[])

    @pytest.mark.parametrize(
        "build",
        [
            Saliency,
            lambda m: Saliency(m).attribute,
            lambda m: functools.partial(Saliency(m).attribute),
        ],
    )
    def test_method_on_the_model_itself(self, build):
        model = BY_NAME["vgg2d"].model()
        self.refused(
            ValueError,
            "built on the model itself",
            model=model,
            methods={"gradient": lambda copy: build(model)},
        )

    def test_heads(self):
        case = BY_NAME["vgg2d"]
        model = case.model()
        with pytest.raises(RuntimeError, match="no head yet"):
            head_kept(HRCAM(model, "stage1"))
        around = HRCAM(lambda x: model(x), model.stage1)
        for build in (head_kept, lambda h: head_refitted(h, [])):
            with pytest.raises(ValueError, match="Build it on the model itself"):
                build(around)
            with pytest.raises(TypeError, match="hrcam: got VGGLike"):
                build(model)
        with pytest.raises(TypeError, match="read once"):
            head_refitted(HRCAM(model, "stage1"), iter(training_batches(case)))

    def test_sensitivity(self):
        x, _ = batch((6, 7))
        with pytest.raises(TypeError, match="expected a Captum attribution"):
            sensitivity_max("Saliency", x, 1)
        for options in ({"radius": 0}, {"samples": 0}):
            with pytest.raises(ValueError, match=f"{next(iter(options))}: got 0"):
                sensitivity_max(lambda inputs, **_: inputs, x, 1, **options)
