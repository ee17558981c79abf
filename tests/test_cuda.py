"""On a GPU: the same maps and heads, in every precision and layout, and no waiting in between."""

import pytest
import torch
from conftest import BY_NAME, fit_quietly, training_batches

from captum_hrcam import HRCAM
from captum_hrcam.fusion import FUSIONS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CASE = BY_NAME["vgg2d"]


@pytest.fixture
def pair() -> tuple[HRCAM, HRCAM]:
    """One head, on the CPU and on the GPU."""
    on_cpu = fit_quietly(HRCAM(CASE.model(), CASE.layers), training_batches(CASE))
    on_gpu = HRCAM(CASE.model().cuda(), CASE.layers)
    on_gpu._head = on_cpu.head
    return on_cpu, on_gpu


@pytest.mark.parametrize("fusion", FUSIONS)
def test_maps_are_those_of_the_cpu(pair, fusion):
    x = CASE.images()
    expected, found = (
        h.class_maps(x.to(d), fusion=fusion) for h, d in zip(pair, ("cpu", "cuda"), strict=True)
    )
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_maps_under_autocast_and_channels_last(pair, dtype):
    _, hrcam = pair
    x = CASE.images().cuda()
    expected = hrcam.class_maps(x)
    with torch.autocast("cuda", dtype=dtype):
        found = hrcam.class_maps(x.contiguous(memory_format=torch.channels_last))
    assert found.dtype == torch.float32
    error = (found - expected).norm() / expected.norm()
    assert error < 0.05


@pytest.mark.parametrize("solver", ["pattern", "ridge", "cascade"])
def test_heads_are_those_of_the_cpu(solver):
    heads = []
    for device in ("cpu", "cuda"):
        hrcam = HRCAM(CASE.model().to(device), CASE.layers)
        heads.append(fit_quietly(hrcam, training_batches(CASE), solver=solver).weights)
    for name, weight in heads[0].items():
        torch.testing.assert_close(
            heads[1][name], weight, rtol=1e-2, atol=1e-2 * weight.abs().max()
        )


@pytest.mark.parametrize("fusion", FUSIONS)
def test_attribute_never_waits_for_the_gpu(pair, fusion):
    _, hrcam = pair
    x = CASE.images().cuda()
    hrcam.attribute(x, 1, fusion=fusion)
    torch.cuda.set_sync_debug_mode("error")
    try:
        hrcam.attribute(x, 1, fusion=fusion)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_pinned_batches_are_read(pair):
    _, hrcam = pair
    batches = [(x.pin_memory(), y) for x, y in training_batches(CASE)]
    fit_quietly(hrcam, batches, solver="pattern")
    assert hrcam.report.n == 30
