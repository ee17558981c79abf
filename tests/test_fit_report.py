"""What the report of a fit says, and warns of."""

import pytest
import torch
from bars import LAYERS, Bars, bars
from conftest import BY_NAME, fit_quietly, training_batches
from torch import nn

from captum_hrcam import HRCAM
from captum_hrcam.features import held_out


class TestReport:
    def test_prints_a_table(self):
        x, hot = bars()
        report = HRCAM(Bars(), LAYERS).fit([(x, hot)])
        text, n = str(report), int(held_out(torch.arange(200)).sum())
        for expected in ("first", "4x4", "2x2", "accuracy", "AUROC", f"{n} held-out", "pass "):
            assert expected in text
        assert "warning" not in text

    def test_shares_add_up_to_one(self):
        hrcam = HRCAM(Bars(), LAYERS)
        x, hot = bars()
        report = hrcam.fit([(x, hot)])
        torch.testing.assert_close(sum(report.shares.values()), torch.ones(2).double())

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
