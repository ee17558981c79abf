"""Maps on a copy of the model whose layers are drawn anew, stage by stage."""

import functools
import itertools

import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel, Saliency
from cases import ImageAndTable, TwoInputs
from conftest import BY_NAME, State, fit_quietly
from pixel_models import generator
from torch import nn

from captum_hrcam import HRCAM, compare
from captum_hrcam.faithfulness import head_kept, head_refitted, randomization, ssim


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

    def test_several_inputs(self):
        inputs = (torch.randn(4, 2, 8, 8), torch.randn(4, 1, 4, 6))
        table = randomization(
            TwoInputs(), Saliency, inputs, 1, additional_forward_args=2.0, layers=["conv2"]
        )
        assert table[table["stage"] == 1]["value"].max() < 0.999

    def test_an_image_and_a_table(self):
        x, table, model = torch.randn(6, 2, 8, 8), torch.arange(1.0, 7), ImageAndTable()
        hrcam = HRCAM(model, "conv")
        fit_quietly(hrcam, [(x, table, torch.arange(6) % 3)], solver="pattern")
        methods = {"kept": head_kept(hrcam), "gradient": Saliency}
        curve = randomization(model, methods, x, 1, additional_forward_args=table)
        assert curve[curve["stage"] == 0]["value"].to_numpy() == pytest.approx(1)
        assert curve[curve["layer"] == "conv.0"]["value"].max() < 0.999


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
