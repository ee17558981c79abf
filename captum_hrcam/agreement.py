"""How head and model do on data, how far they agree, and which layers the score comes from."""

import torch
from torch import Tensor

FIGURES = (
    "head_accuracy",
    "model_accuracy",
    "head_auroc",
    "model_auroc",
    "agreement",
    "r_squared",
)


def layer_shares(contributions: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cov(s_l, s) / Var(s) per class: the layers' shares of the score's variance.

    Args:
        contributions: layer name -> (n, K), the layer's part of the score.
    """
    centred = {name: s - s.mean(0) for name, s in contributions.items()}
    total = torch.stack(list(centred.values())).sum(0)
    variance = (total**2).sum(0)
    return {
        name: torch.where(variance > 0, (s * total).sum(0) / variance.clamp(min=1e-300), 0.0)
        for name, s in centred.items()
    }


def agreement_figures(scores: Tensor, y: Tensor, outputs: Tensor, loss: str) -> dict[str, float]:
    """Accuracy and AUROC of head and model, their agreement, and R^2 of their log-odds.

    Args:
        scores: (n, K) of the head.
        y: (n, K) targets.
        outputs: (n, K') of the model.
        loss: see ``labels.LOSSES``.
    """
    outputs = outputs.double()
    has_model = outputs.shape == scores.shape
    figures = dict.fromkeys(FIGURES, float("nan"))
    if loss != "mse":
        figures["head_accuracy"] = accuracy(scores, y, loss)
        figures["head_auroc"] = auroc(scores, y > 0.5)
    if has_model and loss != "mse":
        figures["model_accuracy"] = accuracy(outputs, y, loss)
        figures["model_auroc"] = auroc(outputs, y > 0.5)
        decided = _decide(outputs, loss).eq(_decide(scores, loss))
        figures["agreement"] = decided.double().mean().item()
    if has_model:
        softmax = loss == "cross_entropy"
        figures["r_squared"] = _r_squared(
            scores - scores.mean(1, keepdim=True) if softmax else scores,
            outputs - outputs.mean(1, keepdim=True) if softmax else outputs,
        )
    return figures


def accuracy(scores: Tensor, y: Tensor, loss: str) -> float:
    """Share of images, or of outputs, that (n, K) scores decide as (n, K) targets do."""
    return _decide(scores, loss).eq(_truth(y, loss)).double().mean().item()


def auroc(scores: Tensor, truth: Tensor) -> float:
    """Area under ROC of each column against the rest, averaged; ties count half.

    The Mann-Whitney form: the share of (positive, negative) pairs that the score orders rightly.
    Columns without both kinds are left out; NaN where none is left. A softmax of two classes is
    judged by the difference of its scores.

    Args:
        scores: (n, K).
        truth: (n, K) bool.

    Examples::

        >>> auroc(torch.tensor([[0.1], [0.4], [0.35], [0.8]]), torch.tensor([[0], [0], [1], [1]]))
        0.75
    """
    if scores.shape[1] == 2:
        scores, truth = scores[:, 1:] - scores[:, :1], truth[:, 1:]
    areas = []
    for score, is_positive in zip(scores.T, truth.T.bool(), strict=True):
        positive, negative = score[is_positive], score[~is_positive].sort().values
        if len(positive) and len(negative):
            below = torch.searchsorted(negative, positive.contiguous())
            not_above = torch.searchsorted(negative, positive.contiguous(), right=True)
            areas.append((below + not_above).double().mean().item() / 2 / len(negative))
    return sum(areas) / len(areas) if areas else float("nan")


def _decide(scores: Tensor, loss: str) -> Tensor:
    return scores.argmax(1) if loss == "cross_entropy" else scores > 0


def _truth(y: Tensor, loss: str) -> Tensor:
    return y.argmax(1) if loss == "cross_entropy" else y > 0.5


def _r_squared(scores: Tensor, outputs: Tensor) -> float:
    """Squared correlation over images, averaged over outputs."""
    a, b = scores - scores.mean(0), outputs - outputs.mean(0)
    product = ((a**2).sum(0) * (b**2).sum(0)).clamp(min=1e-300)
    return ((a * b).sum(0) ** 2 / product).mean().item()
