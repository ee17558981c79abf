"""Shared fixtures."""

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from cases import CASES, Case

from captum_hrcam import HRCAM

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
    """What a call must leave as it was: hooks, modes, weights, gradients, random state."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.before = self._now()

    def _now(self) -> dict[str, Any]:
        modules = dict(self.model.named_modules())
        return {
            "hooks": {
                name: (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
                for name, m in modules.items()
            },
            "training": {name: m.training for name, m in modules.items()},
            "state": {k: v.clone() for k, v in self.model.state_dict().items()},
            "requires_grad": {k: p.requires_grad for k, p in self.model.named_parameters()},
            "grad": {k: p.grad is None for k, p in self.model.named_parameters()},
            "random": torch.get_rng_state(),
        }

    def assert_unchanged(self) -> None:
        after = self._now()
        for kind, before in self.before.items():
            if kind == "random":
                assert torch.equal(before, after[kind])
            elif kind == "state":
                assert all(torch.equal(v, after[kind][k]) for k, v in before.items()), kind
            else:
                assert before == after[kind], kind


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param
