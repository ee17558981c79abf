"""What a fit's report adds to a head's: how the head came about, and warnings of its maps."""

import math
import re

import pytest
import torch
from bars import LAYERS, Bars, bars
from conftest import BY_NAME, fit_quietly, training_batches
from test_report import head_report
from torch import nn

from captum_hrcam import HRCAM
from captum_hrcam.features import held_out
from captum_hrcam.fit_report import UNTOLD, FitReport
from captum_hrcam.framing import Seen


def fit_report(**changes: object) -> FitReport:
    """Of a fit that nothing is wrong with, but for ``changes``."""
    given = {
        "solver": "pattern",
        "balance_layers": None,
        "penalty": None,
        "penalty_path": [],
        "choices": ["layers balanced: no"],
        "seconds_pass": 1.0,
        "seconds_solve": 2.0,
        "seconds_beside": 3.0,
        "extra_forwards": 4,
        "contrast": torch.tensor([2.0, 3.0]),
        "contrast_layer": "last",
        "displacement": {"first": torch.tensor([0.25, 0.004]), "last": torch.tensor([0.004, 0.0])},
    }
    return head_report(FitReport, **(given | changes))


def test_what_is_printed():
    head, *others = str(fit_report()).splitlines()
    assert head == "HR-CAM head, solver pattern, fitted on 100 images"
    assert others[:2] == [
        "  layers balanced: no",
        "  maps moved to where their layers look, in cells: first (-0.25, +0.00)",
    ]
    _, *as_of_a_head = str(head_report()).splitlines()
    assert others[2:5] + others[6:-1] == as_of_a_head
    assert others[5] == (
        "map of each class at 'last': varies 2.0 3.0 times as much in its images as in others"
    )
    assert others[-1] == (
        "pass 1.0 s, solve 2.0 s, all else 3.0 s; further forward passes of single images: 4"
    )


def test_a_guess_whose_maps_are_not_known_to_be_right():
    found = fit_report(support=math.nan, head_auroc=0.5).warnings
    assert "than chance: its maps mean nothing. Check" in found[0]
    assert len(found) == 2


def test_layers_that_stay_where_they_are():
    told = str(fit_report(displacement={"first": torch.tensor([0.004, 0.0])}))
    assert "\n  no layer's map is moved: none was found clearly displaced\n" in told
    assert "moved" not in str(fit_report(displacement={}))


@pytest.mark.parametrize(
    ("contrast", "expected"),
    [
        (torch.ones(8), f"varies{' 1.0' * 8} times"),
        (torch.ones(9), f"varies{' 1.0' * 8} ... times"),
        (torch.tensor([torch.nan, 2.0]), "varies - 2.0 times"),
        (torch.tensor([torch.nan, torch.nan]), None),
        (None, None),
    ],
)
def test_the_contrasts_of_eight_classes(contrast, expected):
    text = str(fit_report(contrast=contrast))
    assert ("map of each class" in text) == (expected is not None)
    assert expected is None or expected in text


WEAK = "a weakly penalised head on 12 features of 100 images uses channels that cancel noise"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        (
            {"solver": "adam", "n": 119, "class_counts": torch.tensor([60.0, 59.0])},
            WEAK.replace("100", "119"),
        ),
        ({"solver": "ridge", "penalty": 0.09}, WEAK),
        ({"solver": "ridge", "penalty": 0.1}, None),
        ({"solver": "adam", "n": 120, "class_counts": torch.tensor([60.0, 60.0])}, None),
        ({"support": 0.5, "change": 0.05}, None),
        ({"support": 0.49, "change": 0.01}, "do not speak for the maps: .* .support 0.49, 0.5 is"),
        ({"support": 0.5, "change": 0.049}, "say little of the maps: .* differs by 0.049 only"),
        ({"support": math.nan}, "uses is not known: too few held-out images change"),
        (
            {"solver": "cascade", "support": 0.9, "agreement": 0.6},
            "the maps explain the head, not the model. The model's outputs speak for the places",
        ),
        (
            {"solver": "cascade", "support": 0.9, "r_squared": 0.4},
            "explain the head more than the model. .* worse maps.$",
        ),
        (
            {"support": 0.9, "head_auroc": 0.5},
            "than chance: its scores mean nothing, though the model's outputs speak for its maps ",
        ),
        ({"contrast": torch.tensor([1.0, 0.31, 1.0])}, None),
        (
            {"contrast": torch.tensor([2.0, 0.5, 2.0])},
            "class 1 is told by what is absent: its map of layer 'last' varies 0.5 times as much "
            ".* .median class 2.0.",
        ),
        ({"framing": [Seen(1.0, 0.0, 100), Seen(1.0, 0.01, 100)]}, None),
        (
            {"framing": [Seen(1.0, 0.0, 100), Seen(-1.0, 0.1, 100)]},
            r"not see the image as it was given: axis 1 at -1.00 of its length, \+0.10 of a side",
        ),
    ],
)
def test_warns_of_what_misleads_and_of_nothing_else(changes, expected):
    report = fit_report(**changes)
    assert len(report.warnings) == (expected is not None)
    for warning in report.warnings:
        assert re.search(expected, warning)
        assert str(report).endswith(f"\nwarning: {warning}")


def test_few_images_of_a_class_spoil_the_maps():
    (warning,) = fit_report(class_counts=torch.tensor([97.0, 3.0])).warnings
    assert warning == "class 1 has 3 images: what its map shows may be these images' alone."


class TestOfAFit:
    def test_prints_a_table(self):
        x, hot = bars()
        report = HRCAM(Bars(), LAYERS).fit([(x, hot)])
        text, n = str(report), int(held_out(torch.arange(200)).sum())
        for expected in ("first", "4x4", "2x2", "accuracy", "AUROC", f"{n} held-out", "pass "):
            assert expected in text
        assert report.warnings == [UNTOLD]  # blurring bars as wide as the image changes nothing

    def test_warns_when_the_head_does_not_explain_the_model(self):
        case = BY_NAME["vgg2d"]
        with pytest.warns(
            UserWarning, match="head and model agree on .* the map explains the head"
        ):
            HRCAM(case.model(), case.layers).fit(training_batches(case))

    def test_warns_of_a_weakly_penalised_head(self):
        x, hot = bars(20)
        with pytest.warns(UserWarning, match="weakly penalised head on 6 features of 20 images"):
            HRCAM(Bars(), LAYERS).fit([(x, hot)], solver="adam", epochs=1)

    @pytest.mark.parametrize("solver", ["auto", "pattern", "ridge", "cascade"])
    def test_warns_of_a_class_told_by_what_is_absent(self, solver):
        x = torch.randn(300, 3, 8, 8, generator=torch.Generator().manual_seed(0)) / 2
        labels = torch.arange(300) % 4
        for c in range(3):  # the last class has no patch
            x[labels == c, c, 2:4, 4:6] += 6
        hrcam = HRCAM(Bars(4), LAYERS)
        told = "class 3 is told by what is absent: its map of layer 'second' varies 0.* no place"
        with pytest.warns(UserWarning, match=told):
            report = hrcam.fit([(x, labels)], solver=solver)
        assert report.contrast.shape == (4,)
        assert "map of each class at 'second': varies " in str(report)
        assert [w for w in report.warnings if "absent" in w] == [
            w for w in report.warnings if w.startswith("class 3 is told")
        ]

    def test_a_layer_of_a_single_cell_shows_no_place(self):
        class Single(Bars):
            def __init__(self):
                super().__init__(4)
                self.third = nn.AdaptiveAvgPool2d(1)

            def forward(self, x):
                return self.fc(self.third(self.second(self.first(x))).flatten(1))

        x = torch.randn(300, 3, 8, 8, generator=torch.Generator().manual_seed(0)) / 2
        labels = torch.arange(300) % 4
        for c in range(3):
            x[labels == c, c, 2:4, 4:6] += 6
        hrcam = fit_quietly(HRCAM(Single(), [*LAYERS, "third"]), [(x, labels)])
        assert hrcam.weights["third"].any()
        assert hrcam.report.contrast_layer == "second"
        assert any("map of layer 'second' varies 0." in w for w in hrcam.report.warnings)

    def test_real_values_have_no_contrast(self):
        x, _ = bars()
        report = fit_quietly(HRCAM(Bars(), LAYERS), [(x, x.mean((2, 3))[:, :2])], loss="mse").report
        assert report.contrast is None
        assert "times as much" not in str(report)

    def test_ridge_reports_its_path(self):
        x, hot = bars()
        report = HRCAM(Bars(), LAYERS).fit([(x, hot)], solver="ridge")
        assert report.penalty in [row[0] for row in report.penalty_path]
        assert f"penalty {report.penalty:g}: the strongest" in str(report)


class TestWrongLabels:
    """What a fit says of labels that are not the model's; each is invisible in averages."""

    def several(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Six labels an image, each its own channel of a model that knows them all."""
        generator = torch.Generator().manual_seed(0)
        y = (torch.rand(600, 6, generator=generator) < 0.2).double()
        x = torch.randn(600, 6, 4, 4, generator=generator) + 2 * y[:, :, None, None].float()
        return x, y

    def warned(self, x: torch.Tensor, y: torch.Tensor, **options: str) -> list[str]:
        k = y.shape[1]
        model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, k))
        with torch.no_grad():
            model[3].weight.copy_(3 * torch.eye(k, 6))
            model[3].bias.fill_(-3)
        hrcam = HRCAM(model, ["0"])
        return fit_quietly(hrcam, [(x, y)], solver="pattern", **options).report.warnings

    def test_right_ones(self):
        assert self.warned(*self.several(), loss="binary_cross_entropy") == []

    def test_one_label_shuffled(self):
        x, y = self.several()
        y[:, 2] = y[torch.randperm(600, generator=torch.Generator().manual_seed(1)), 2]
        head, model = self.warned(x, y, loss="binary_cross_entropy")
        assert "class 2: the head's AUROC" in head
        assert "class 2: the model's own AUROC" in model

    def test_two_columns_changed_for_each_other(self):
        x, y = self.several()
        *_, warning = self.warned(x, y[:, [0, 1, 2, 5, 4, 3]], loss="binary_cross_entropy")
        assert "classes 3, 5: the model's own AUROC" in warning
        assert "in the order" in warning

    def test_two_independent_labels_are_each_judged(self):
        x, y = self.several()
        y[:, 0] = y[torch.randperm(600, generator=torch.Generator().manual_seed(1)), 0]
        head, model = self.warned(x, y[:, :2], loss="binary_cross_entropy")[-2:]
        assert "class 0: the head's AUROC" in head
        assert "class 0: the model's own AUROC" in model

    def test_real_values_of_the_other_sign(self):
        x, _ = self.several()
        value = x.mean((2, 3))[:, :1]
        assert self.warned(x, value, loss="mse") == []
        told = self.warned(x, -value, loss="mse")
        assert "the head's scores fall where the model's rise" in told[0]
        assert "output 0: the model's own correlation with the labels is -1.00" in told[1]
