"""What holds for every CNN, on networks drawn at random: 25, in ``make test-nightly`` 200."""

import dataclasses
import os
from dataclasses import dataclass, field

import replica
import torch
from cases import CONV, GAP, NORM
from conftest import State, fit_quietly
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from captum_hrcam import HRCAM
from captum_hrcam.fusion import FUSIONS, Fusion

NETWORKS = int(os.environ.get("NETWORKS", "25"))
ACTIVATIONS = {
    "relu_": lambda: nn.ReLU(inplace=True),
    "elu_": lambda: nn.ELU(inplace=True),
    "silu": nn.SiLU,
    "none": nn.Identity,
}


class Block(nn.Module):
    """Convolution, norm, perhaps a residual sum, and an activation that may overwrite it."""

    def __init__(self, d: int, channels: int, plan: "BlockPlan") -> None:
        super().__init__()
        self.conv = CONV[d](
            channels,
            plan.channels,
            plan.kernel,
            stride=plan.stride,
            dilation=plan.dilation,
            padding=plan.dilation * (plan.kernel // 2),
            groups=plan.groups,
        )
        norms = {"batch": NORM[d], "group": lambda c: nn.GroupNorm(2, c), "none": nn.Identity}
        self.norm = norms[plan.norm](*([plan.channels] if plan.norm != "none" else []))
        self.activation = ACTIVATIONS[plan.activation]()
        self.residual = plan.residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return self.activation(y + x if self.residual and y.shape == x.shape else y)


@dataclass(frozen=True)
class BlockPlan:
    channels: int  # even, as two groups need it
    kernel: int
    stride: int
    dilation: int
    groups: int
    norm: str
    activation: str
    residual: bool


@dataclass(frozen=True)
class Network:
    """A plan that prints as what to build again; everything in float64."""

    size: tuple[int, ...]
    blocks: tuple[BlockPlan, ...]
    layers: tuple[str, ...]
    solver: str
    seed: int
    hrcam: HRCAM = field(init=False, repr=False)
    x: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            hrcam = HRCAM(self._model(), self.layers)
            data = [(self._images(15), torch.arange(15) % 3) for _ in range(2)]
            object.__setattr__(self, "x", self._images(4))
        fit_quietly(hrcam, data, solver=self.solver)
        object.__setattr__(self, "hrcam", hrcam)

    def _images(self, n: int) -> Tensor:
        return torch.randn(n, 2, *self.size, dtype=torch.float64)

    def _model(self) -> nn.Module:
        """In training mode, its running statistics far from those of a batch."""
        d = len(self.size)
        inputs = (2, *(plan.channels for plan in self.blocks))
        blocks = [Block(d, c, plan) for c, plan in zip(inputs, self.blocks, strict=False)]
        head = [GAP[d](1), nn.Flatten(), nn.Linear(inputs[-1], 3)]
        model = nn.Sequential(*blocks, *head).double()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        return model

    def is_rounding_alone(self) -> bool:
        """Whether a layer is, as a norm over one cell: another order of the batch rounds otherwise,
        and a head scales it up."""
        model = self.hrcam.forward_func
        maps = replica.feature_maps(model, self.hrcam.layers, self.x)
        model.train()
        return any(0 < f.std() < 1e-9 for f in maps.values())

    def with_head(self, weights: dict[str, Tensor], **options) -> HRCAM:
        """The same model and layers with other weights."""
        other, head = HRCAM(self.hrcam.forward_func, self.layers, **options), self.hrcam.head
        other._head = dataclasses.replace(head, weights=weights)
        return other


BLOCKS = st.builds(
    BlockPlan,
    channels=st.sampled_from([2, 4, 6]),
    kernel=st.sampled_from([1, 3]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    groups=st.integers(1, 2),
    norm=st.sampled_from(["none", "batch", "group"]),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    residual=st.booleans(),
)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    d = draw(st.integers(1, 3))
    size = draw(st.tuples(*[st.integers(2, 13 if d < 3 else 6)] * d))
    blocks = draw(st.lists(BLOCKS, min_size=1, max_size=4).map(tuple))
    places = [f"{i}{part}" for i in range(len(blocks)) for part in (".conv", ".norm", "")]
    layers = draw(st.sets(st.sampled_from(places), min_size=1, max_size=4))
    solver = draw(st.sampled_from(["pattern", "cascade"]))
    network = Network(size, blocks, tuple(sorted(layers)), solver, draw(st.integers(0, 2**16)))
    assume(not network.is_rounding_alone())
    return network


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * (1 + b.abs().max().item()))


def equals_the_paper_in_loops(net: Network) -> None:
    hrcam, mode = net.hrcam, State(net.hrcam.forward_func)
    maps, score = hrcam.class_maps(net.x), hrcam.predict(net.x)
    mode.assert_unchanged()
    f = replica.placed_maps(hrcam, net.x)
    hrcam.forward_func.train()
    for c in range(3):
        same(maps[:, c : c + 1], replica.class_map(f, hrcam.weights, c, net.size))
    same(score, replica.scores(f, hrcam.weights, hrcam.bias))


def layers_add_up(net: Network) -> None:
    for fusion in ("sum", "evidence"):
        parts = net.hrcam.layer_maps(net.x, 1, fusion=fusion)
        same(sum(parts.values()), net.hrcam.attribute(net.x, 1, fusion=fusion))


def mean_and_bias_are_the_score(net: Network) -> None:
    native = net.hrcam._native_maps(net.hrcam.head, (net.x,), (), None, Fusion())
    means = sum(a.flatten(2).mean(2) for a in native.values())
    same(means + net.hrcam.bias, net.hrcam.predict(net.x))


def order_of_a_batch_is_its_maps(net: Network) -> None:
    order, targets = torch.tensor([2, 0, 3, 1]), torch.tensor([0, 1, 2, 1])
    for fusion in FUSIONS:
        maps = net.hrcam.attribute(net.x, targets, fusion=fusion)
        same(net.hrcam.attribute(net.x[order], targets[order], fusion=fusion), maps[order])


def twice_the_channels_of_half_the_weight(net: Network) -> None:
    halves = {name: torch.cat([w, w], 1) / 2 for name, w in net.hrcam.weights.items()}
    doubled = net.with_head(halves, reshape_transform=lambda f: torch.cat([f, f], 1))
    for fusion in FUSIONS:
        same(
            doubled.attribute(net.x, 1, fusion=fusion),
            net.hrcam.attribute(net.x, 1, fusion=fusion),
        )


def linear_in_the_weights(net: Network) -> None:
    first = net.hrcam.weights
    second = {name: w.flip(0).sin() for name, w in first.items()}
    both = {name: 2 * first[name] - 3 * second[name] for name in first}
    one, two, all_three = (net.with_head(w).class_maps(net.x) for w in (first, second, both))
    same(all_three, 2 * one - 3 * two)


PROPERTIES = (
    equals_the_paper_in_loops,
    layers_add_up,
    mean_and_bias_are_the_score,
    order_of_a_batch_is_its_maps,
    twice_the_channels_of_half_the_weight,
    linear_in_the_weights,
)


@settings(max_examples=NETWORKS, deadline=None)
@given(network=networks())
def test_every_network(network):
    for holds in PROPERTIES:
        note(holds.__name__)
        holds(network)
