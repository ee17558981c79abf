"""High-resolution class activation maps (HR-CAM) for Captum."""

from captum_hrcam.hrcam import HRCAM
from captum_hrcam.layers import find_layers
from captum_hrcam.report import FitReport

__version__ = "0.1.0"

__all__ = ["HRCAM", "FitReport", "find_layers"]
