"""Data sets of the paper, in their real layouts; nothing is downloaded."""

from captum_hrcam.datasets.isic import ISIC2019
from captum_hrcam.datasets.mura import MURA
from captum_hrcam.datasets.neuromelanin import NeuromelaninMRI
from captum_hrcam.datasets.simulated import SimulatedPathology

__all__ = ["ISIC2019", "MURA", "NeuromelaninMRI", "SimulatedPathology"]
