"""What fit makes of labels, losses and options."""

import math

import pytest
import torch
from bars import LAYERS, Bars, bars
from conftest import fit_quietly
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_hrcam import HRCAM
from captum_hrcam.features import held_out


@pytest.mark.parametrize("solver", ["pattern", "ridge", "adam"])
def test_every_solver_tells_the_classes(solver):
    x, hot = bars()
    x_new, hot_new = bars(seed=1)
    hrcam = HRCAM(Bars(), LAYERS)
    hrcam.fit([(x, hot.argmax(1))], solver=solver)
    assert (hrcam.predict(x_new).argmax(1) == hot_new.argmax(1)).float().mean() > 0.95


@pytest.mark.parametrize("solver", ["pattern", "ridge"])  # layers of others share as they please
def test_every_layer_learns_what_tells_the_classes(solver):
    x, hot = bars()
    hrcam = HRCAM(Bars(), LAYERS)
    hrcam.fit([(x, hot.argmax(1))], solver=solver)
    for weight in hrcam.weights.values():
        assert weight[0, 0] > 0 > weight[0, 1]
        assert weight[1, 1] > 0 > weight[1, 0]


class TestAuto:
    def test_is_the_default_and_keeps_one_of_two_heads(self):
        x, hot = bars()
        auto, other = HRCAM(Bars(), LAYERS), HRCAM(Bars(), LAYERS)
        report = auto.fit([(x, hot.argmax(1))])
        assert report.solver in ("cascade", "pattern")
        assert report.choices[0].startswith(f"solver {report.solver}: ")
        assert "tell its support" in report.choices[0]
        assert "24 held-out images" in report.choices[0]
        other.fit([(x, hot.argmax(1))], solver=report.solver)
        for name in LAYERS:
            assert torch.equal(auto.weights[name], other.weights[name])
            assert torch.equal(auto.head.spread[name], other.head.spread[name])

    @pytest.mark.parametrize("solver", ["auto", "cascade", "pattern"])
    def test_states_its_cost_in_forward_passes(self, solver):
        x, hot = bars()
        model, seen = Bars(), []
        model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        report = HRCAM(model, LAYERS).fit([(x, hot.argmax(1))], solver=solver)
        assert sum(seen) == len(x) + report.extra_forwards
        n = int((~held_out(torch.arange(200))).sum())  # fewer than the 160 that a cascade takes
        places = 3 * len(range(0, n, -(-n // 32)))
        expected = {"pattern": 64, "cascade": len(range(0, n, 3)) + n * 3 + places}
        expected["auto"] = expected["cascade"] + 1 + 24 * (1 + 5 + 1 + 5)
        assert report.extra_forwards == expected[solver]

    def test_judges_on_val_data_where_there_is_some(self):
        x, hot = bars()
        val = [tuple(v[:6] for v in bars(seed=1))]
        report = HRCAM(Bars(), LAYERS).fit([(x, hot.argmax(1))], val_data=val)
        assert "6 held-out images" in report.choices[0]

    def test_real_values_have_no_classes_to_look_for(self):
        x, hot = bars()
        report = HRCAM(Bars(), LAYERS).fit([(x, hot.float())], loss="mse")
        assert report.solver == "pattern"

    def test_is_what_the_other_options_are_for(self):
        x, hot = bars()
        balanced = HRCAM(Bars(), LAYERS).fit([(x, hot)], balance_layers="equal")
        penalised = HRCAM(Bars(), LAYERS).fit([(x, hot)], penalty=2.0)
        assert (balanced.solver, balanced.balance_layers) == ("pattern", "equal")
        assert (penalised.solver, penalised.penalty) == ("ridge", 2.0)

    def test_a_model_without_scores_leaves_the_cascade(self):
        x, hot = bars()
        model = Bars().eval()
        hrcam = HRCAM(lambda v: {"scores": model(v)}, [model.first, model.second])
        report = hrcam.fit([(x, hot.argmax(1))], n_classes=2)
        assert report.solver == "cascade"
        assert "no score of each class" in report.choices[0]


@pytest.mark.parametrize("solver", ["pattern", "ridge"])
def test_scores_are_calibrated(solver):
    x, hot = bars(2000)
    x_new, hot_new = bars(2000, seed=1)
    hrcam = HRCAM(Bars(), LAYERS)
    hrcam.fit([(x, hot.argmax(1))], solver=solver)
    certain = hrcam.predict(x_new).softmax(1).max(1).values.mean()
    right = (hrcam.predict(x_new).argmax(1) == hot_new.argmax(1)).float().mean()
    assert certain.item() == pytest.approx(right.item(), abs=0.02)


@pytest.mark.parametrize("solver", ["pattern", "ridge", "adam"])
def test_hard_and_one_hot_labels_give_the_same_head(solver):
    x, hot = bars()
    a = fit_quietly(HRCAM(Bars(), LAYERS), [(x, hot.argmax(1))], solver=solver)
    b = fit_quietly(HRCAM(Bars(), LAYERS), [(x, hot)], solver=solver)
    for name in LAYERS:
        assert torch.equal(a.weights[name], b.weights[name])


def test_batches_do_not_matter():
    x, hot = bars()
    y = hot.argmax(1)
    whole = fit_quietly(HRCAM(Bars(), LAYERS), [(x, y)])
    split = fit_quietly(HRCAM(Bars(), LAYERS), list(zip(x.split(7), y.split(7), strict=True)))
    for name in LAYERS:
        torch.testing.assert_close(whole.weights[name], split.weights[name], rtol=1e-4, atol=1e-6)


def test_soft_labels_weaken_the_head():
    x, hot = bars()
    hard = fit_quietly(HRCAM(Bars(), LAYERS), [(x, hot)])
    soft = fit_quietly(HRCAM(Bars(), LAYERS), [(x, 0.5 + 0.4 * (hot - 0.5))])
    assert soft.predict(x).softmax(1).max() < hard.predict(x).softmax(1).max()
    assert 0.6 < soft.predict(x).softmax(1).max(1).values.mean() < 0.75


def test_targets_of_the_model_need_no_labels():
    x, _ = bars()
    model = Bars()
    hrcam = HRCAM(model, LAYERS)
    report = hrcam.fit([x], targets="model")
    assert report.agreement > 0.95
    with_labels = fit_quietly(HRCAM(model, LAYERS), [(x, torch.zeros(200))], targets="model")
    for name in LAYERS:
        assert torch.equal(hrcam.weights[name], with_labels.weights[name])


def test_several_labels_an_image():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(2, (300, 3), generator=generator)
    x = torch.randn(300, 3, 4, 4, generator=generator) + 2 * rows[:, :, None, None]
    hrcam = HRCAM(Bars(3), LAYERS)
    report = hrcam.fit([(x, rows)], loss="binary_cross_entropy")
    assert ((hrcam.predict(x) > 0) == rows).float().mean() > 0.95
    assert report.head_accuracy > 0.95


def test_one_logit():
    x, hot = bars()
    report = HRCAM(Bars(1), LAYERS).fit([(x, hot[:, 0])], loss="binary_cross_entropy")
    assert report.head_accuracy > 0.9
    assert report.head_auroc > 0.9


def test_real_values():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 3, 4, 4, generator=generator)
    value = x.mean((2, 3)) @ torch.tensor([3.0, -2.0, 0.0]) + 10
    for solver in ("pattern", "ridge"):
        hrcam = HRCAM(Bars(1), LAYERS)
        report = hrcam.fit([(x, value)], loss="mse", solver=solver)
        error = (hrcam.predict(x)[:, 0] - value).pow(2).mean()
        assert error < 0.5 * value.var()
        assert math.isnan(report.head_accuracy)


def test_augmenting_loader_is_read_n_passes_times():
    x, hot = bars(40)
    reads = []

    class Augmenting:
        def __iter__(self):
            reads.append(1)
            yield x + torch.randn_like(x) * 0.1, hot.argmax(1)

    report = HRCAM(Bars(), LAYERS).fit(Augmenting(), n_passes=3)
    assert len(reads) == 3
    assert report.n == 120
    assert "fitted on 120 views of 40 images" in str(report)


def test_an_image_read_again_is_no_other_image():
    x, hot = bars(8)
    report = fit_quietly(HRCAM(Bars(), LAYERS), [(x, hot.argmax(1))], n_passes=3).report
    assert any("each of classes 0, 1 has 4 images" in warning for warning in report.warnings)
    with pytest.raises(ValueError, match="train_data: got 4 images, expected at least 5"):
        HRCAM(Bars(), LAYERS).fit([(x[:4], hot[:4].argmax(1))], n_passes=3)


def test_validation_data_give_the_figures_and_do_not_enter_the_head():
    x, hot = bars()
    x_new, hot_new = bars(60, seed=1)
    y, y_new = hot.argmax(1), hot_new.argmax(1)
    without = fit_quietly(HRCAM(Bars(), LAYERS), [(x, y)], solver="pattern")
    hrcam = HRCAM(Bars(), LAYERS)
    contrary = [(x_new, 1 - y_new)]
    report = hrcam.fit([(x, y)], val_data=contrary, solver="pattern")
    assert report.figures_from == "60 validation images"
    assert report.head_accuracy < 0.1
    assert report.model_accuracy < 0.1
    assert torch.equal(hrcam.weights["first"], without.weights["first"])


def test_a_loader_and_a_model_may_fill_the_same_buffer_again():
    """As pinned batches and compiled models do."""
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    x, y = (v[order] for v in bars())  # else each batch has the same labels
    y = y.double()

    class Reusing(Bars):
        def forward(self, x):
            scores = super().forward(x)
            self.scores = getattr(self, "scores", scores)
            return self.scores[: len(x)].copy_(scores)

    def reused():
        images, labels = torch.empty(20, 3, 4, 4), torch.empty(20, 2).double()
        for rows in torch.arange(200).split(20):
            yield images.copy_(x[rows]), labels.copy_(y[rows])

    batches = list(zip(x.split(20), y.split(20), strict=True))
    plain = fit_quietly(HRCAM(Bars(), LAYERS), batches)
    ours = fit_quietly(HRCAM(Reusing(), LAYERS), reused())
    assert ours.report.model_accuracy == plain.report.model_accuracy
    assert ours.report.agreement == plain.report.agreement
    for name in LAYERS:
        torch.testing.assert_close(ours.weights[name], plain.weights[name])


def test_loader_with_workers_and_shuffling():
    x, hot = bars()
    loader = DataLoader(TensorDataset(x, hot.argmax(1)), batch_size=16, shuffle=True, num_workers=1)
    assert HRCAM(Bars(), LAYERS).fit(loader).head_accuracy > 0.9


def test_unstandardised_ridge_is_another_head():
    x, hot = bars()
    x[:, 2] *= 100
    heads = [
        fit_quietly(HRCAM(Bars(), LAYERS), [(x, hot)], solver="ridge", penalty=0.1, standardize=s)
        for s in (True, False)
    ]
    assert not torch.allclose(heads[0].weights["first"], heads[1].weights["first"])


def test_equal_balance_gives_layers_equal_norm_in_standard_deviations():
    x, hot = bars()
    hrcam = HRCAM(Bars(), LAYERS)
    hrcam.fit([(x, hot)], solver="pattern", balance_layers="equal")
    norms = []
    for name, f in (("first", x), ("second", nn.functional.avg_pool2d(x, 2))):
        sd = f.double().transpose(0, 1).flatten(1).std(1, correction=0)  # over images and cells
        norms.append((hrcam.weights[name] * sd).norm().item())
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


class TestFewShowAClass:
    """A cascade looks at 160 images only, some at a time: not all of them show every class."""

    def test_one_logit_of_sorted_images(self):
        x, hot = bars(120)
        y = hot[:, 1].sort().values
        x = x[hot[:, 1].argsort()]
        for solver in ("auto", "cascade"):
            hrcam = fit_quietly(
                HRCAM(Bars(1), LAYERS),
                [(x[i : i + 32], y[i : i + 32].float()) for i in range(0, 120, 32)],
                loss="binary_cross_entropy",
                solver=solver,
            )
            assert all(weight.any() for weight in hrcam.weights.values())

    @pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
    def test_a_class_that_held_out_images_alone_show(self, loss):
        labels = torch.arange(100) % 2
        labels[held_out(torch.arange(100)).nonzero()[0]] = 2
        hot, generator = nn.functional.one_hot(labels), torch.Generator().manual_seed(0)
        x = 0.1 * torch.randn(100, 3, 4, 4, generator=generator) + 3 * hot[:, :, None, None]
        hrcam = fit_quietly(HRCAM(Bars(3), LAYERS), [(x, hot)], solver="cascade", loss=loss)
        for weight in hrcam.weights.values():
            assert (weight.diagonal() > 0).all()
        assert hrcam.predict(x).argmax(1).equal(hot.argmax(1))

    def test_more_classes_than_images_of_the_cascade(self):
        k, generator = 200, torch.Generator().manual_seed(0)
        y = torch.arange(800) % k
        x = torch.randn(800, 3, 4, 4, generator=generator)
        x += 3 * torch.randn(k, 3, generator=generator)[y][:, :, None, None]
        hrcam = fit_quietly(HRCAM(Bars(k), LAYERS), [(x, y)], solver="cascade")
        for weight in hrcam.weights.values():
            assert weight.any(1).all()

    @pytest.mark.parametrize("largest", [0.45, 0.6])
    def test_soft_labels_that_decide_for_no_class(self, largest):
        x, hot = bars(200, k=3)
        rest = (1 - largest) / 2
        hrcam = fit_quietly(HRCAM(Bars(3), LAYERS), [(x, hot * (largest - rest) + rest)])
        for weight in hrcam.weights.values():
            assert weight.any(1).all()
        assert (hrcam.predict(x).argmax(1) == hot.argmax(1)).float().mean() > 0.95


@pytest.mark.parametrize("solver", ["auto", "pattern", "ridge", "cascade"])
def test_autocast_is_the_models_alone(solver):
    x, hot = bars()
    plain = fit_quietly(HRCAM(Bars(), LAYERS), [(x, hot)], solver=solver)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = fit_quietly(HRCAM(Bars(), LAYERS), [(x, hot)], solver=solver)
        half = fit_quietly(HRCAM(Bars(), LAYERS), [(x.bfloat16(), hot)], solver=solver)
    for name, weight in plain.weights.items():
        atol = 0.05 * weight.abs().max().item()
        torch.testing.assert_close(cast.weights[name], weight, rtol=0, atol=atol)
        torch.testing.assert_close(half.weights[name], weight, rtol=0, atol=atol)


@pytest.mark.parametrize("constant", [0.1, -7.7, 0.0])
@pytest.mark.parametrize(
    ("solver", "layers"),
    [
        ("pattern", ["constant", *LAYERS]),
        ("pattern", [*LAYERS, "constant"]),
        ("ridge", ["constant", *LAYERS]),
        ("ridge", [*LAYERS, "constant"]),
        ("cascade", ["constant", *LAYERS]),  # as the last it would have nothing to teach
    ],
)
def test_a_layer_of_constants_has_no_weight(solver, layers, constant):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.full_like(x, constant)

    class Both(Bars):
        def __init__(self):
            super().__init__()
            self.constant = Constant()

        def forward(self, x):
            self.constant(x)
            return super().forward(x)

    x, hot = bars()
    hrcam = fit_quietly(HRCAM(Both(), layers), [(x, hot)], solver=solver)
    assert not hrcam.weights["constant"].any()
    assert (hrcam.predict(x).argmax(1) == hot.argmax(1)).float().mean() > 0.9


@pytest.mark.parametrize("solver", ["auto", "cascade"])
def test_a_last_layer_whose_averages_tell_nothing_changes_no_map(solver):
    class Normed(Bars):
        def __init__(self):
            super().__init__()
            self.norm = nn.InstanceNorm2d(3)

        def forward(self, x):
            f = self.second(self.first(x))
            self.norm(f)
            return self.fc(f.mean((2, 3)))

    x, hot = bars()
    one, other = (
        fit_quietly(HRCAM(Normed(), layers), [(x, hot)], solver=solver)
        for layers in (LAYERS, [*LAYERS, "norm"])
    )
    for fusion in ("sum", "agreement"):
        expected, found = (h.class_maps(x, fusion=fusion) for h in (one, other))
        torch.testing.assert_close(found, expected)
    said = [choice for choice in other.report.choices if "tell nothing" in choice]
    assert [line.split(":")[1] for line in said] == [" norm left out"]
    assert not any("tell nothing" in choice for choice in one.report.choices)


def test_a_model_that_squeezes_a_batch_of_one_away():
    class Squeezes(Bars):
        def forward(self, x):
            return super().forward(x).squeeze()

    x, hot = bars(41)
    for k, y, loss in ((2, hot, "cross_entropy"), (1, hot[:, 0], "binary_cross_entropy")):
        batches = [(x[i : i + 10], y[i : i + 10].float()) for i in range(0, 41, 10)]
        hrcam = fit_quietly(HRCAM(Squeezes(k), LAYERS), batches, loss=loss)
        assert hrcam.report.n == 41
        assert hrcam.report.model_accuracy > 0.5


def test_adam_whatever_the_default_dtype():
    x, hot = bars(40)
    torch.set_default_dtype(torch.float64)
    try:
        fit_quietly(HRCAM(Bars().float(), LAYERS), [(x, hot)], solver="adam", epochs=1)
    finally:
        torch.set_default_dtype(torch.float32)


def test_auto_for_a_model_of_whole_numbers():
    class Scales(Bars):
        def forward(self, x):
            return super().forward(x.float() / 64 - 2)

    x, hot = bars()
    x = ((x + 2) * 64).clamp(0, 255).to(torch.uint8)
    hrcam = fit_quietly(HRCAM(Scales(), LAYERS), [(x, hot)])
    assert "held-out images" in hrcam.report.choices[0]
    assert (hrcam.predict(x).argmax(1) == hot.argmax(1)).float().mean() > 0.9
