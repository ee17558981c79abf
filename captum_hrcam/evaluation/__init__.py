"""Methods on images with masks: figures of every method, their statistics, and the baselines."""

from captum_hrcam.evaluation.evaluate import evaluate
from captum_hrcam.evaluation.measures import default_metrics
from captum_hrcam.evaluation.result import Evaluation

__all__ = ["Evaluation", "default_metrics", "evaluate"]
