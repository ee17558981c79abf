"""What a fit found: a report that prints as a table and warns where a map would mislead."""

from dataclasses import dataclass, field

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


@dataclass
class FitReport:
    """The outcome of ``HRCAM.fit``.

    Attributes:
        n: number of training images (times ``n_passes``).
        channels: layer name -> C_l.
        resolutions: layer name -> native spatial size.
        shares: layer name -> (K,), the layer's share of the variance of each class's score; the
            shares of a class add up to 1.
        solver: the solver used.
        balance_layers: the balancing used.
        penalty: ridge's chosen penalty, else None.
        penalty_path: (penalty, held-out loss, its standard error), from strong to weak.
        choices: what was chosen automatically, and why.
        figures_from: the data that the figures below were computed on.
        head_accuracy, model_accuracy: share of right classes; NaN where it is undefined.
        head_auroc, model_auroc: area under ROC, each class against the rest, averaged.
        agreement: share of images to which head and model give the same class.
        r_squared: R^2 between the head's and the model's centred log-odds.
        seconds_pass: seconds for the frozen pass.
        seconds_solve: seconds for the solve.
        extra_forwards: forward passes of single images beside the frozen pass: 64 for what is
            ordinary in the maps, more for a cascade and for a choice.
        warnings: what a reader of the maps should know.
    """

    n: int
    channels: dict[str, int]
    resolutions: dict[str, tuple[int, ...]]
    shares: dict[str, Tensor]
    solver: str
    balance_layers: str | None
    penalty: float | None
    penalty_path: list[tuple[float, float, float]]
    choices: list[str]
    figures_from: str
    head_accuracy: float
    model_accuracy: float
    head_auroc: float
    model_auroc: float
    agreement: float
    r_squared: float
    seconds_pass: float
    seconds_solve: float
    extra_forwards: int
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.warnings += self._warnings()

    def _warnings(self) -> list[str]:
        """What a reader of the maps should know."""
        found = []
        if self.agreement < 0.9:
            found.append(
                f"head and model agree on {self.agreement:.1%} of images only: the map explains "
                "the head. Try targets='model' or more layers."
            )
        n_features = sum(self.channels.values())
        weak = self.solver == "adam" or (self.penalty is not None and self.penalty < 0.1)
        if weak and n_features > self.n / 10:
            found.append(
                f"a weakly penalised head on {n_features} features of {self.n} images uses "
                "channels that cancel noise: expect poor maps. Use solver='pattern' for maps."
            )
        return found

    def __str__(self) -> str:
        lines = [f"HR-CAM head, solver {self.solver}, fitted on {self.n} images"]
        lines += [f"  {choice}" for choice in self.choices]
        lines += self._layer_table()
        lines.append(f"on {self.figures_from}:")
        lines.append(
            f"  accuracy   head {self.head_accuracy:.3f}   model {self.model_accuracy:.3f}"
        )
        lines.append(f"  AUROC      head {self.head_auroc:.3f}   model {self.model_auroc:.3f}")
        lines.append(
            f"  head and model agree on {self.agreement:.1%}, R^2 of log-odds {self.r_squared:.3f}"
        )
        lines = [line.replace("nan%", "-").replace("nan", "-") for line in lines]
        lines.append(
            f"pass {self.seconds_pass:.1f} s, solve {self.seconds_solve:.1f} s, forward passes of "
            f"single images beside: {self.extra_forwards}"
        )
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def _layer_table(self) -> list[str]:
        width = max(5, *(len(name) for name in self.channels))
        lines = [f"{'layer':<{width}}  channels  resolution   share of each class's score variance"]
        for name, channels in self.channels.items():
            size = "x".join(map(str, self.resolutions[name]))
            share = " ".join(f"{value:6.1%}" for value in self.shares[name][:8].tolist())
            more = " ..." if len(self.shares[name]) > 8 else ""
            lines.append(f"{name:<{width}}  {channels:>8}  {size:>10}   {share}{more}")
        return lines


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
        figures["head_accuracy"] = _accuracy(scores, y, loss)
        figures["head_auroc"] = auroc(scores, y > 0.5)
    if has_model and loss != "mse":
        figures["model_accuracy"] = _accuracy(outputs, y, loss)
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


def _accuracy(scores: Tensor, y: Tensor, loss: str) -> float:
    return _decide(scores, loss).eq(_truth(y, loss)).double().mean().item()


def _decide(scores: Tensor, loss: str) -> Tensor:
    return scores.argmax(1) if loss == "cross_entropy" else scores > 0


def _truth(y: Tensor, loss: str) -> Tensor:
    return y.argmax(1) if loss == "cross_entropy" else y > 0.5


def _r_squared(scores: Tensor, outputs: Tensor) -> float:
    """Squared correlation over images, averaged over outputs."""
    a, b = scores - scores.mean(0), outputs - outputs.mean(0)
    product = ((a**2).sum(0) * (b**2).sum(0)).clamp(min=1e-300)
    return ((a * b).sum(0) ** 2 / product).mean().item()
