"""Which weights a head was fitted on: other weights are told, other names and dtypes are not."""

import functools

import pytest
import torch
from conftest import BY_NAME, State
from torch import nn

from captum_hrcam.fingerprint import SIGNS, fingerprint, is_of_others

CASE = BY_NAME["vgg2d"]
KNOWN = fingerprint(CASE.model())


def changed(name: str, change) -> nn.Module:
    """The model with one of its tensors changed in place."""
    model = CASE.model()
    with torch.no_grad():
        change(model.state_dict()[name])
    return model


def test_each_number_is_a_tensors_alternating_sum():
    model = nn.Linear(3, 2)
    model.weight.data = torch.tensor([[1.0, 2, 3], [5, 8, 13]])
    model.bias.data = torch.tensor([4.0, 9])
    assert fingerprint(model).tolist() == [1 - 2 + 3 - 5 + 8 - 13, 4 - 9]
    state = State(model)
    fingerprint(model)
    state.assert_unchanged()
    long = nn.Linear(len(SIGNS) + 3, 1, bias=False)  # read in several parts
    expected = long.weight[0, ::2].double().sum() - long.weight[0, 1::2].double().sum()
    torch.testing.assert_close(fingerprint(long), expected[None])


class WithExtraState(nn.BatchNorm2d):  # which counts its batches, too
    def get_extra_state(self):
        return {"any": "thing"}


def test_whole_numbers_and_extra_state_have_none():
    model = WithExtraState(3)
    assert "_extra_state" in model.state_dict()
    model.register_buffer("grid", torch.arange(4.0), persistent=False)
    assert len(fingerprint(model)) == 4


@pytest.mark.parametrize("name", ["stage1.0.weight", "stage3.0.bias", "fc.bias"])
def test_other_values_of_the_same_norm_are_told(name):
    assert is_of_others(KNOWN, changed(name, lambda x: x.mul_(-1)))


@pytest.mark.parametrize(("share", "is_told"), [(0.001, False), (0.1, True)])
def test_how_far_weights_may_differ(share, is_told):
    model = changed("stage2.0.weight", lambda x: x.view(-1)[0].add_(share * x.norm()))
    assert is_of_others(KNOWN, model) is is_told


def test_another_number_of_tensors_is_told():
    assert is_of_others(KNOWN, nn.Sequential(CASE.model(), nn.Linear(2, 2)))
    assert is_of_others(KNOWN[:-1], CASE.model())


@pytest.mark.parametrize(
    "same",
    [
        lambda m: m.half(),
        lambda m: m.bfloat16(),
        lambda m: m.double().train(),
        lambda m: m.to(memory_format=torch.channels_last),
        lambda m: m.requires_grad_(False),
        lambda m: nn.Sequential(nn.Identity(), m),
        lambda m: torch.compile(m, backend="eager"),
        lambda m: m.forward,
        lambda m: functools.partial(m),
    ],
    ids=["half", "bfloat16", "double", "channels_last", "frozen", "inside", "compiled", "bound",
         "partial"],
)  # fmt: skip
def test_the_same_weights_in_another_form_are_known(same):
    assert not is_of_others(KNOWN, same(CASE.model()))


def test_half_precision_near_zero_is_rounding():
    model = nn.Linear(400, 30)  # torchvision's vision transformers begin with such biases
    nn.init.normal_(model.weight, std=1e-6)
    known = fingerprint(model)
    assert not is_of_others(known, model.half())


class Sparse(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)
        self.register_buffer("graph", torch.eye(2).to_sparse())


@pytest.mark.parametrize(
    "unread",
    [
        lambda: lambda x: x,
        lambda: nn.LazyLinear(3),
        lambda: nn.Linear(3, 3, device="meta"),
        lambda: Sparse(),
        lambda: nn.Linear(3, 3).to(torch.float8_e5m2),
        lambda: nn.ReLU(),
    ],
    ids=["function", "lazy", "meta", "sparse", "float8", "no weights"],
)
def test_what_cannot_be_read_is_not_compared(unread):
    assert fingerprint(unread()).shape == (0,)
    assert not is_of_others(KNOWN, unread())
    assert not is_of_others(fingerprint(unread()), CASE.model())


def test_masks_of_infinities_are_passed_over():
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))
    known = fingerprint(model)
    assert known.isfinite().all()
    assert not is_of_others(known, model)
    model.bias.data += 1
    model.bias.data[0] += 1
    assert is_of_others(known, model)
