"""How head and model do on data, how far they agree, and which layers the score comes from."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_hrcam import group
from captum_hrcam.discrimination import (
    FEW,
    accuracy,
    are_probabilities,
    auroc,
    by_chance,
    by_class,
    correlation,
    decided,
)
from captum_hrcam.features import FeatureCollector, Features
from captum_hrcam.head import Head
from captum_hrcam.labels import present
from captum_hrcam.moments import Moments

FIGURES = (
    "head_accuracy",
    "model_accuracy",
    "head_auroc",
    "model_auroc",
    "agreement",
    "r_squared",
    "slope",
    "divergence",
)
CONTRARY = 0.3  # a correlation below minus this is more than chance


def check_head(
    head: Head, collector: FeatureCollector, channels: Mapping[str, int], loss: str
) -> dict[str, Any]:
    """A fitted head's figures on other data, for a ``HeadReport``."""
    rows, (moments, _) = collector.rows(), collector.moments()
    layers = layer_scores(rows, head.weights)
    scores = torch.stack(list(layers.values())).sum(0) + head.bias
    y, outputs = group.gather(rows.y), group.gather(rows.outputs)
    figures_from = f"{len(y)} of them" if len(y) < moments.n else "all of them"
    figures = head_figures(moments, channels, layers, scores, y, outputs, loss)
    return figures | {"figures_from": figures_from}


def head_figures(
    moments: Moments,
    channels: Mapping[str, int],
    layers: dict[str, Tensor],
    scores: Tensor,
    y: Tensor,
    outputs: Tensor,
    loss: str,
) -> dict[str, Any]:
    """What every ``HeadReport`` says of the data, the layers' shares, head and model.

    Args:
        moments: the moments of all images.
        channels: layer name -> C_l.
        layers: layer name -> (n, K), its part of the score.
        scores, y, outputs: the head's scores (m, K), the targets (m, K) and the model's outputs
            (m, K') for the images that figures are made on.
        loss: see ``labels.LOSSES``.
    """
    return {
        "n": moments.n,
        "class_counts": None if loss == "mse" else moments.mean_y * moments.n,
        "channels": dict(channels),
        "shares": layer_shares(layers),
        "n_figures": len(y),
        **agreement_figures(scores, y, outputs, loss),
    }


def layer_scores(rows: Features, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each layer's part of the score for all ranks' images, {layer: (n, K)}."""
    return {name: group.gather(scores) for name, scores in rows.layer_scores(weights).items()}


def layer_shares(contributions: dict[str, Tensor]) -> dict[str, Tensor]:
    """The layers' shares of the variance of each class's score, Cov(s_l, s) / Var(s).

    Args:
        contributions: layer name -> (n, K), the layer's part of the score.
    """
    centred = {name: s - s.mean(0) for name, s in contributions.items()}
    total = torch.stack(list(centred.values())).sum(0)
    variance = (total**2).sum(0)
    return {name: (s * total).sum(0) / variance.clamp(min=1e-300) for name, s in centred.items()}


def agreement_figures(scores: Tensor, y: Tensor, outputs: Tensor, loss: str) -> dict[str, Any]:
    """Accuracy and AUROC of head and model, overall and for each class; how far the two agree.

    Args:
        scores: (n, K), the head's.
        y: (n, K) targets.
        outputs: (n, K'), the model's.
        loss: see ``labels.LOSSES``.
    """
    outputs = outputs.double()
    has_model = outputs.shape == scores.shape
    fits = outputs.isfinite()
    if loss != "mse":
        fits = fits | (outputs == -torch.inf)  # as a class is masked
    is_broken = ~fits.all(1)
    has_figures = has_model and not is_broken.any()
    figures: dict[str, Any] = dict.fromkeys(FIGURES, float("nan"))
    none = torch.full((scores.shape[1],), math.nan).double()
    figures |= {
        "head_by_class": by_class(scores, y, loss),
        "model_by_class": by_class(outputs, y, loss) if has_figures else none,
        "alone_by_class": auroc(scores, present(y, loss)) if loss == "cross_entropy" else None,
        "by_chance": by_chance(y, loss),
        "has_model": has_model,
        "n_broken": int(is_broken.sum()) if has_model else 0,
        "says_contrary": False,
        "gives_probabilities": has_figures and are_probabilities(outputs, loss),
    }
    if loss != "mse":
        figures["head_accuracy"] = accuracy(scores, y, loss)
        figures["head_auroc"] = figures["head_by_class"].nanmean().item()
    if has_figures and loss != "mse":
        figures["model_accuracy"] = accuracy(outputs, y, loss)
        figures["model_auroc"] = figures["model_by_class"].nanmean().item()
        alike = decided(outputs, loss).eq(decided(scores, loss))
        figures["agreement"] = alike.double().mean().item()
        figures["divergence"] = _divergence(scores, outputs, loss)
    if has_figures:
        a, b = (_log_odds(s, loss) for s in (scores, outputs))
        figures["r_squared"] = (correlation(a, b) ** 2).mean().item()
        figures["slope"], together = _slope(a, b)
        figures["says_contrary"] = len(y) >= FEW and together < -CONTRARY
    return figures


def _log_odds(scores: Tensor, loss: str) -> Tensor:
    """Log-odds from scores: of a softmax, less the mean over classes, on which it does not
    depend."""
    return scores - scores.mean(1, keepdim=True) if loss == "cross_entropy" else scores


def _slope(of_head: Tensor, of_model: Tensor) -> tuple[float, float]:
    """The slope of the head's log-odds over the model's, all outputs together, and the
    correlation of the two."""
    a, b = of_head - of_head.mean(0), of_model - of_model.mean(0)
    both, of_a, of_b = ((x * y).sum().item() for x, y in ((a, b), (a, a), (b, b)))
    if of_b == 0:
        return math.nan, math.nan
    return both / of_b, both / max(of_a * of_b, 1e-300) ** 0.5


def _divergence(scores: Tensor, outputs: Tensor, loss: str) -> float:
    """Kullback-Leibler divergence of the model's probabilities from the head's, nats per image."""
    if loss == "cross_entropy":
        p, q = F.log_softmax(outputs, 1), F.log_softmax(scores, 1)
        # A class masked by minus infinity has probability 0 and adds nothing.
        return torch.where(p.exp() > 0, p.exp() * (p - q), 0.0).sum(1).mean().item()
    yes = outputs.sigmoid() * (F.logsigmoid(outputs) - F.logsigmoid(scores))
    no = (-outputs).sigmoid() * (F.logsigmoid(-outputs) - F.logsigmoid(-scores))
    return (yes + no).sum(1).mean().item()
