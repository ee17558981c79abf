"""What a fit found: a report that prints as a table and warns where a map would mislead."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from captum_hrcam.features import Features


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
        agreement: share of images to which head and model give the same class.
        r_squared: R^2 between the head's and the model's centred log-odds.
        seconds_pass: seconds for the frozen pass.
        seconds_solve: seconds for the solve.
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
    agreement: float
    r_squared: float
    seconds_pass: float
    seconds_solve: float
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        width = max(5, *(len(name) for name in self.channels))
        lines = [f"HR-CAM fit on {self.n} images, solver {self.solver}"]
        lines += [f"  {choice}" for choice in self.choices]
        lines.append(f"{'layer':<{width}}  channels  resolution   share of the score's variance")
        for name, channels in self.channels.items():
            size = "x".join(map(str, self.resolutions[name]))
            share = " ".join(f"{value:6.1%}" for value in self.shares[name][:8].tolist())
            more = " ..." if len(self.shares[name]) > 8 else ""
            lines.append(f"{name:<{width}}  {channels:>8}  {size:>10}   {share}{more}")
        lines.append(
            f"on {self.figures_from}: accuracy of the head {self.head_accuracy:.3f}, "
            f"of the model {self.model_accuracy:.3f}; "
            f"agreement {self.agreement:.1%}, R^2 of log-odds {self.r_squared:.3f}"
        )
        lines.append(f"pass {self.seconds_pass:.1f} s, solve {self.seconds_solve:.1f} s")
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


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


def agreement_figures(scores: Tensor, features: Features, loss: str) -> dict[str, float]:
    """Accuracy of head and model, their agreement, and R^2 of their log-odds."""
    nan = float("nan")
    outputs, y = features.outputs.double(), features.y
    comparable = outputs.shape == scores.shape and len(scores) > 0
    figures = {"head_accuracy": nan, "model_accuracy": nan, "agreement": nan, "r_squared": nan}
    if not len(scores):
        return figures
    if loss == "mse":
        if comparable:
            figures["r_squared"] = _r_squared(scores, outputs)
        return figures
    figures["head_accuracy"] = _decide(scores, loss).eq(_truth(y, loss)).double().mean().item()
    if comparable:
        decided = _decide(outputs, loss)
        figures["model_accuracy"] = decided.eq(_truth(y, loss)).double().mean().item()
        figures["agreement"] = decided.eq(_decide(scores, loss)).double().mean().item()
        log_odds = loss == "cross_entropy"
        figures["r_squared"] = _r_squared(
            scores - scores.mean(1, keepdim=True) if log_odds else scores,
            outputs - outputs.mean(1, keepdim=True) if log_odds else outputs,
        )
    return figures


def _decide(scores: Tensor, loss: str) -> Tensor:
    return scores.argmax(1) if loss == "cross_entropy" else scores > 0


def _truth(y: Tensor, loss: str) -> Tensor:
    return y.argmax(1) if loss == "cross_entropy" else y > 0.5


def _r_squared(scores: Tensor, outputs: Tensor) -> float:
    """Squared correlation over images, averaged over outputs."""
    a, b = scores - scores.mean(0), outputs - outputs.mean(0)
    product = ((a**2).sum(0) * (b**2).sum(0)).clamp(min=1e-300)
    return ((a * b).sum(0) ** 2 / product).mean().item()
