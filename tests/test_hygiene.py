"""Nothing is left behind: hooks, modes, buffers, gradients, random state; also after errors."""

import pytest
import torch
from conftest import BY_NAME, State, fit_quietly, fitted, training_batches
from torch import nn

from captum_hrcam import CAM, HRCAM, find_layers

CASE = BY_NAME["vgg2d"]


class Breaks(nn.Module):
    """Raises in the middle of the forward pass once ``left`` passes are done; BatchNorm before."""

    def __init__(self):
        super().__init__()
        self.inner = CASE.model()
        self.norm = nn.BatchNorm2d(2)
        self.left = float("inf")

    def forward(self, x):
        x = self.inner.stage1(self.norm(x))
        if self.left == 0:
            raise OSError("the model broke")
        self.left -= 1
        x = self.inner.stage3(self.inner.stage2(x))
        return self.inner.fc(self.inner.gap(x))


@pytest.fixture
def model() -> Breaks:
    """In the midst of training: modes are mixed, some gradients are there, some never will be."""
    torch.manual_seed(0)
    model = Breaks().train()
    model.inner.stage2.eval()
    model(CASE.images()).sum().backward()
    model.inner.fc.weight.grad = None
    model.inner.fc.weight.requires_grad_(False)
    return model


LAYERS = ["inner.stage1", "inner.stage3"]


@pytest.mark.parametrize("solver", ["auto", "cascade", "pattern", "ridge", "adam"])
def test_fit_and_attribute_leave_the_model_as_it_was(model, solver):
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.randn(30, 2, 8, 8), torch.arange(30) % 3),
        batch_size=7,
        shuffle=True,
    )
    state = State(model)  # after the data drew its random numbers
    hrcam = fit_quietly(HRCAM(model, LAYERS), loader, solver=solver, epochs=2)
    state.assert_unchanged()
    for call in (hrcam.attribute, hrcam.layer_maps):
        call(CASE.images(), 1)
    hrcam.class_maps(CASE.images())
    hrcam.predict(CASE.images())
    state.assert_unchanged()


def test_inputs_are_left_as_they_were(model):
    hrcam = fit_quietly(HRCAM(model, LAYERS), training_batches(CASE))
    x = CASE.images().requires_grad_()
    before = x.detach().clone()
    hrcam.attribute(x, 1)
    assert torch.equal(x, before)
    assert x.requires_grad
    assert x.grad is None


def test_error_in_the_model_leaves_nothing_and_keeps_the_head(model):
    hrcam = fit_quietly(HRCAM(model, LAYERS), training_batches(CASE))
    expected = hrcam.attribute(CASE.images(), 1)
    state = State(model)
    model.left = 0
    for call in (
        lambda: hrcam.attribute(CASE.images(), 1),
        lambda: hrcam.fit(training_batches(CASE)),
        lambda: CAM(model, LAYERS[-1], "inner.fc").attribute(CASE.images(), 1),
        lambda: find_layers(model, CASE.images()),
    ):
        with pytest.raises(OSError, match="the model broke"):
            call()
        state.assert_unchanged()
    model.left = float("inf")
    assert torch.equal(hrcam.attribute(CASE.images(), 1), expected)


def test_error_in_any_pass_of_a_fit_leaves_nothing_and_keeps_the_head(model):
    hrcam = fit_quietly(HRCAM(model, LAYERS), training_batches(CASE))
    head, state, passes = hrcam.head, State(model), 0
    while True:
        model.left = passes
        try:
            fit_quietly(hrcam, training_batches(CASE))
        except OSError:
            assert hrcam.head is head
        else:
            break
        state.assert_unchanged()
        passes += 1
    assert passes > 20  # reading, cascade, spreads, the choice between two heads


def test_bad_target_leaves_nothing(model):
    hrcam = fit_quietly(HRCAM(model, LAYERS), training_batches(CASE))
    state = State(model)
    with pytest.raises(AssertionError):
        hrcam.attribute(CASE.images(), 7)
    state.assert_unchanged()


def interrupted(error):
    yield from training_batches(CASE)[:2]
    raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("disk"), ValueError("bad file")])
def test_loader_that_fails_midway_leaves_nothing_and_keeps_the_head(model, error):
    hrcam = fit_quietly(HRCAM(model, LAYERS), training_batches(CASE))
    head, report = hrcam.head, hrcam.report
    state = State(model)
    with pytest.raises(type(error)):
        hrcam.fit(interrupted(error))
    state.assert_unchanged()
    assert hrcam.head is head
    assert hrcam.report is report


def test_no_activation_is_held():
    hrcam = fitted(CASE)
    kept = []

    def remember(module, args, output):
        kept.append(output.untyped_storage()._weak_ref())

    handle = hrcam.layers["stage1"].register_forward_hook(remember)
    hrcam.attribute(CASE.images(), 1)
    handle.remove()
    assert torch.UntypedStorage._expired(kept[0])


def test_users_own_hooks_see_the_forward_and_stay():
    hrcam = fitted(CASE)
    calls = []
    handle = hrcam.layers["stage2"].register_forward_hook(lambda *_: calls.append(1))
    hrcam.attribute(CASE.images(), 1)
    assert calls == [1]
    assert len(hrcam.layers["stage2"]._forward_hooks) == 1
    handle.remove()
