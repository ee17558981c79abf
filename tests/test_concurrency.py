"""Several threads, calls inside calls, other grad modes: no result is mixed, no hook is left."""

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from conftest import BY_NAME, State, fit_quietly, training_batches
from torch import nn

from captum_hrcam import HRCAM, find_layers
from captum_hrcam.modes import eval_mode

CASE = BY_NAME["vgg2d"]  # with batch normalisation, so that a wrong mode shows
IMAGES = torch.randn(8, 3, 2, *CASE.size, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def model() -> nn.Module:
    model = CASE.model().train()
    model.stage1.eval()
    return model


@pytest.fixture(autouse=True)
def switch_threads_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def side_by_side(calls: list[Callable[[], Any]]) -> list[Any]:
    """The results of calls that start together, one thread each; the first error is raised."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        start.wait(60)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [done.result() for done in [pool.submit(run, call) for call in calls]]


def assert_all_equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    for one, other in zip(a, b, strict=True):
        assert torch.equal(one, other)


def assert_all_close(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    """But for the last digits: torch promises no order of its sums from thread to thread."""
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other)


def test_eval_mode_stays_until_the_last_thread_is_done(model):
    state = State(model)
    entered, left = threading.Event(), threading.Event()

    def first() -> None:
        with eval_mode(model):
            assert entered.wait(60)
        left.set()

    def second() -> list[bool]:
        with eval_mode(model):
            entered.set()
            assert left.wait(60)
            return [m.training for m in model.modules()]

    assert not any(side_by_side([first, second])[1])
    state.assert_unchanged()


def test_forward_passes_that_overlap_are_not_mixed(model):
    hrcam = fit_quietly(HRCAM(model, CASE.layers), training_batches(CASE))
    x, y = IMAGES[:2]
    expected = [hrcam.attribute(x, 1), hrcam.attribute(y, 2)]
    meeting = threading.Barrier(2)

    def wait(*_: Any) -> None:
        meeting.wait(60)

    handle = model.stage2.register_forward_hook(wait)
    state = State(model)
    calls = [partial(hrcam.attribute, x, 1), partial(hrcam.attribute, y, 2)]
    assert_all_close(side_by_side(calls), expected)
    state.assert_unchanged()
    handle.remove()


def test_many_threads_on_one_model_and_two_heads(model):
    deep = fit_quietly(HRCAM(model, CASE.layers), training_batches(CASE))
    inputs = HRCAM(model, ["pool1", "stage2"], attribute_to_layer_input=True)
    fit_quietly(inputs, training_batches(CASE), solver="pattern")
    state = State(model)
    calls = [partial(h.class_maps, x) for x in IMAGES for h in (deep, inputs)]
    expected = [call() for call in calls]
    for _ in range(10):
        assert_all_close(side_by_side(calls), expected)
    state.assert_unchanged()


def test_fitting_and_finding_beside_attribution(model):
    hrcam = fit_quietly(HRCAM(model, CASE.layers), training_batches(CASE))
    other = HRCAM(model, CASE.layers[1:])
    calls: list[Callable[[], Any]] = [
        lambda: fit_quietly(other, training_batches(CASE), solver="pattern").weights,
        lambda: find_layers(model, IMAGES[0]),
        lambda: [hrcam.attribute(x, 1) for x in IMAGES],
        lambda: [hrcam.attribute(x, 2) for x in IMAGES],
    ]
    weights, found, *maps = (call() for call in calls)
    state = State(model)
    for _ in range(3):
        weights_again, found_again, *maps_again = side_by_side(calls)
        assert_all_close(list(weights_again.values()), list(weights.values()))
        assert found_again == found
        for again, before in zip(maps_again, maps, strict=True):
            assert_all_close(again, before)
    state.assert_unchanged()


def test_an_error_in_one_thread_is_that_threads_own(model):
    hrcam = fit_quietly(HRCAM(model, CASE.layers), training_batches(CASE))
    expected = hrcam.attribute(IMAGES[0], 1)
    state = State(model)

    def fails() -> None:
        with pytest.raises(RuntimeError, match="2 channels, but got 3"):
            hrcam.attribute(torch.zeros(1, 3, *CASE.size), 1)

    for _ in range(10):
        results = side_by_side([fails, partial(hrcam.attribute, IMAGES[0], 1)] * 3)
        assert_all_close(results[1::2], [expected] * 3)
    state.assert_unchanged()


def test_layer_that_runs_in_another_thread_is_refused():
    class Threaded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = CASE.model()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return side_by_side([partial(self.inner, x)])[0]

    hrcam = HRCAM(Threaded(), "inner.stage1")
    state = State(hrcam.forward_func)
    with pytest.raises(RuntimeError, match=r"'inner.stage1' did not run in the forward pass"):
        hrcam.fit(training_batches(CASE))
    state.assert_unchanged()


@pytest.mark.parametrize("where", CASE.layers)
@pytest.mark.parametrize("same", [True, False], ids=["same head", "another head"])
def test_call_inside_a_users_own_hook(model, where, same):
    outer = inner = fit_quietly(HRCAM(model, CASE.layers), training_batches(CASE))
    if not same:
        inner = fit_quietly(HRCAM(model, CASE.layers[1:]), training_batches(CASE))
    x, y = IMAGES[:2]
    expected = [inner.attribute(y, 2), outer.attribute(x, 1)]
    maps = []

    def ask(*_: Any) -> None:
        if not maps:
            maps.append(None)  # the call below comes here too
            maps[0] = inner.attribute(y, 2)

    handle = model.get_submodule(where).register_forward_hook(ask)
    state = State(model)
    maps.append(outer.attribute(x, 1))
    assert_all_equal(maps, expected)
    state.assert_unchanged()
    handle.remove()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, nullcontext])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "autocast"])
def test_training_goes_on_around_a_call(model, mode, half):
    """A monitor asks for maps between two steps, in any mode: the step is as without it."""
    hrcam = fit_quietly(HRCAM(model, CASE.layers), training_batches(CASE))
    x, y = IMAGES[0], torch.tensor([0, 1, 2])

    def step(monitor: bool) -> list[torch.Tensor]:
        model.zero_grad()
        running = {name: buffer.clone() for name, buffer in model.named_buffers()}
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            if monitor:
                with mode():
                    maps = hrcam.attribute(x, 1)
                assert maps.shape == (3, 1, *CASE.size)
            nn.functional.cross_entropy(model(x), y).backward()
        model.load_state_dict(running, strict=False)
        return [p.grad.clone() for p in model.parameters()]

    assert_all_equal(step(monitor=True), step(monitor=False))
