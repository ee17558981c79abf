"""Shared fixtures."""

import random
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from cases import CASES, Case

from captum_hrcam import HRCAM

CUDNN_FLAGS = ("enabled", "benchmark", "deterministic", "allow_tf32")
BY_NAME = {case.name: case for case in CASES}


def fitted(case: Case, **options: Any) -> HRCAM:
    """An HRCAM fitted on random images and labels."""
    return fit_quietly(HRCAM(case.model(), case.layers), training_batches(case), **options)


def training_batches(case: Case, n: int = 30) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Random images and labels 0, 1, 2, in three batches."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(n, 2, *case.size, generator=generator)
    return list(zip(images.split(n // 3), (torch.arange(n) % 3).split(n // 3), strict=True))


def fit_quietly(hrcam: HRCAM, data: Any, **options: Any) -> HRCAM:
    """Heads of random labels agree with nothing, and the report warns of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        hrcam.fit(data, **options)
    return hrcam


class State:
    """What a call must leave as it was: hooks, modes, weights, gradients, random state, flags."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.before = self._now()

    def _now(self) -> dict[str, Any]:
        modules = dict(self.model.named_modules())
        parameters = dict(self.model.named_parameters())
        values = {**parameters, **dict(self.model.named_buffers())}
        hooks = [name for name in vars(self.model) if name.endswith(("_hooks", "_with_kwargs"))]
        return {
            "hooks": {
                name: [len(getattr(m, kind)) for kind in hooks] for name, m in modules.items()
            },
            "training": {name: m.training for name, m in modules.items()},
            "values": {name: v.detach().clone() for name, v in values.items()},
            "requires_grad": {name: p.requires_grad for name, p in parameters.items()},
            "no_grad": {name for name, p in parameters.items() if p.grad is None},
            "grad": {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None},
            "random": (
                torch.get_rng_state().tolist(),
                np.random.get_state()[1].tolist(),  # noqa: NPY002 - the global one is meant
                random.getstate(),
            ),
            "flags": {
                "cudnn": [getattr(torch.backends.cudnn, flag) for flag in CUDNN_FLAGS],
                "deterministic": torch.are_deterministic_algorithms_enabled(),
                "autocast": (torch.is_autocast_cache_enabled(), torch.is_autocast_enabled()),
                "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
                "threads": torch.get_num_threads(),
                "dtype": torch.get_default_dtype(),
            },
        }

    def assert_unchanged(self) -> None:
        after = self._now()
        for kind, before in self.before.items():
            if kind in ("values", "grad"):
                assert before.keys() == after[kind].keys(), kind
                assert all(torch.equal(v, after[kind][name]) for name, v in before.items()), kind
            else:
                assert before == after[kind], kind


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """On images this small, threads wait for each other longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
