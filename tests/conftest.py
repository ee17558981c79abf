"""Shared fixtures."""

import sys
import warnings
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from cases import CASES, Case

from captum_hrcam import HRCAM


def fitted(case: Case, **options) -> HRCAM:
    """An HRCAM fitted on random images and labels."""
    hrcam = HRCAM(case.model(), case.layers)
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(30, 2, *case.size, generator=generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hrcam.fit([(images, torch.arange(30) % 3)], **options)
    return hrcam


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request) -> Case:
    return request.param
