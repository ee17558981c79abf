"""Accuracy, F1, AUROC and agreement, by scikit-learn; None where a figure is not defined."""

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, recall_score, roc_auc_score


def scores(
    probability: Mapping[str, np.ndarray], y: np.ndarray, classes: Sequence[str]
) -> dict[str, dict | list]:
    """The figures of the model and of each head, and the classes that no image belongs to.

    Args:
        probability: {"model" or a head's name: class probabilities (n, K)}.
        y: (n,) labels.
        classes: K names.
    """
    found: dict = {name: classification(p, y) for name, p in probability.items()}
    model = probability["model"].argmax(1)
    for name in found.keys() - {"model"}:
        agrees = probability[name].argmax(1) == model
        found[name]["agreement_with_model"] = float(agrees.mean())
    return found | {"absent": [name for k, name in enumerate(classes) if k not in y]}


def classification(probability: np.ndarray, y: np.ndarray) -> dict[str, float | None]:
    """Figures over the classes that occur in ``y``; with two classes also the F1 of the second.

    Args:
        probability: (n, K).
        y: (n,) labels.
    """
    guess, there = probability.argmax(1), np.unique(y)
    found = {
        "accuracy": accuracy_score(y, guess),
        "balanced_accuracy": recall_score(y, guess, labels=there, average="macro"),
        "f1_micro": f1_score(y, guess, average="micro"),
        "f1_macro": f1_score(y, guess, labels=there, average="macro"),
        "auroc": auroc(probability, y),
    }
    if probability.shape[1] == 2:
        found["f1_positive"] = f1_score(y, guess) if 1 in there else None
    return found


def auroc(probability: np.ndarray, y: np.ndarray) -> float | None:
    """The AUROC of each class in ``y`` against the rest, averaged; None if there is no rest."""
    there = np.unique(y)
    if len(there) < 2:
        return None
    return float(np.mean([roc_auc_score(y == c, probability[:, c]) for c in there]))
