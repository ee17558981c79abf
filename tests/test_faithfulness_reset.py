"""The order in which layers ran, and parameters drawn anew."""

import torch
from pixel_models import generator
from torch import nn

from captum_hrcam.faithfulness import randomization
from captum_hrcam.faithfulness.reset import draw_anew, top_down


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

    def test_images_stay_that_a_model_changes_in_place(self):
        class InPlace(nn.Conv1d):
            def forward(self, x):
                return super().forward(x.add_(1))

        x = torch.zeros(1, 1, 3)
        assert top_down(InPlace(1, 2, 1), (x,)) == [""]
        assert not x.any()

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
