"""High-resolution class activation maps (HR-CAM) for Captum."""

from captum_hrcam import metrics
from captum_hrcam.cam import CAM
from captum_hrcam.compare import compare
from captum_hrcam.evaluation import Evaluation, evaluate
from captum_hrcam.finding import find_layers
from captum_hrcam.fit_report import FitReport
from captum_hrcam.hrcam import HRCAM
from captum_hrcam.report import HeadReport

__version__ = "0.1.0"

__all__ = [
    "CAM",
    "HRCAM",
    "Evaluation",
    "FitReport",
    "HeadReport",
    "compare",
    "evaluate",
    "find_layers",
    "metrics",
]
