"""How well scores tell the classes of images: accuracy, AUROC, and what a guess hardly exceeds."""

import math

import torch
from torch import Tensor

from captum_hrcam.labels import present

FEW = 10  # fewer images with a class, or without it, are too few for AUROC; likewise correlation
CHANCE = 1.7  # standard errors that a guess exceeds in one case of twenty
SURE_OF_NO, SURE_OF_YES = 0.1, 0.9  # probabilities that a trained model gives some image


def decided(scores: Tensor, loss: str) -> Tensor:
    """The class of each image (n,); without a softmax, whether each output says yes (n, K)."""
    return scores.argmax(1) if loss == "cross_entropy" else scores > 0


def accuracy(scores: Tensor, y: Tensor, loss: str) -> float:
    """The share of images, or of outputs, that scores (n, K) decide as targets (n, K) do."""
    truth = y.argmax(1) if loss == "cross_entropy" else y > 0.5
    return decided(scores, loss).eq(truth).double().mean().item()


def by_class(scores: Tensor, y: Tensor, loss: str) -> Tensor:
    """(K,) how well each output tells its label: AUROC, or for real values the correlation.

    A softmax is judged by the odds of each class against the rest.
    """
    if loss == "mse":
        return correlation(scores, y)
    if loss == "cross_entropy":
        scores = odds(scores)
    return auroc(scores, present(y, loss))


def odds(scores: Tensor) -> Tensor:
    """The log-odds of each class of a softmax against all others, (n, K), from scores (n, K).

    They order images as the probabilities do, and still differ where these are 1 in floating point.

    Examples::

        >>> odds(torch.tensor([[0.0, 100.0]], dtype=torch.float64)).tolist()
        [[-100.0, 100.0]]
    """
    if scores.shape[1] == 2:  # exactly, so that ties stay ties
        return scores - scores.flip(1)
    likeliest = scores.argmax(1, keepdim=True)
    of_rest = scores.scatter(1, likeliest, -torch.inf).logsumexp(1, keepdim=True)
    log_p = scores.log_softmax(1)  # of all but the likeliest class at most log(1/2)
    found = log_p - torch.log1p(-log_p.exp())
    return found.scatter(1, likeliest, scores.gather(1, likeliest) - of_rest)


def auroc(scores: Tensor, truth: Tensor) -> Tensor:
    """Area under ROC of each column against the rest, (K,); ties count half.

    Computed in its Mann-Whitney form, the share of (positive, negative) pairs that the score orders
    rightly. NaN for a column that lacks either kind.

    Args:
        scores: (n, K).
        truth: (n, K) bool.

    Examples::

        >>> auroc(torch.tensor([[0.1], [0.4], [0.35], [0.8]]), torch.tensor([[0], [0], [1], [1]]))
        tensor([0.7500], dtype=torch.float64)
    """
    areas = torch.full((scores.shape[1],), torch.nan).double()
    for k, (score, is_positive) in enumerate(zip(scores.T, truth.T.bool(), strict=True)):
        positive, negative = score[is_positive], score[~is_positive].sort().values
        if len(positive) and len(negative):
            below = torch.searchsorted(negative, positive.contiguous())
            not_above = torch.searchsorted(negative, positive.contiguous(), right=True)
            areas[k] = (below + not_above).double().mean() / 2 / len(negative)
    return areas


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """The correlation of a and b in each column, over rows, (K,); 0 if either does not vary, NaN
    for a single row."""
    if len(a) < 2:
        return torch.full((a.shape[1],), torch.nan).double()
    a, b = a - a.mean(0), b - b.mean(0)
    product = ((a**2).sum(0) * (b**2).sum(0)).clamp(min=1e-300)
    return (a * b).sum(0) / product.sqrt()


def by_chance(y: Tensor, loss: str) -> Tensor:
    """(K,) what a guess hardly exceeds; NaN for a class with too few images to tell."""
    n = len(y)
    if loss == "mse":
        return torch.full((y.shape[1],), CHANCE * n**-0.5 if n >= FEW else math.nan).double()
    positive = present(y, loss).sum(0).double()
    pairs = positive * (n - positive)
    chance = 0.5 + CHANCE * ((n + 1) / (12 * pairs)).sqrt()  # of Mann and Whitney's U
    return torch.where(torch.minimum(positive, n - positive) >= FEW, chance, torch.nan)


def are_probabilities(outputs: Tensor, loss: str) -> bool:
    """Whether outputs (n, K) look like probabilities already, instead of scores."""
    if loss == "mse" or len(outputs) < 2 or ((outputs < 0) | (outputs > 1)).any():
        return False
    if loss == "cross_entropy":
        return bool((outputs.sum(1) - 1).abs().max() < 1e-2)
    # A model that is sure of nothing has logits in a narrow range, which may lie between 0 and 1.
    return bool(outputs.min() < SURE_OF_NO and outputs.max() > SURE_OF_YES)
