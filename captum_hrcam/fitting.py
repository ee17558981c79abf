"""From pooled features to a head: choose, solve, balance layers, calibrate, fold, report."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from captum_hrcam import solvers
from captum_hrcam.cascade import Cascade
from captum_hrcam.checks import one_of, positive, whole
from captum_hrcam.features import FeatureCollector, Features, Moments
from captum_hrcam.head import Head, centre, fold, split_layers
from captum_hrcam.labels import LOSSES, check_classes, loss_per_sample
from captum_hrcam.report import agreement_figures, layer_shares

SOLVERS = ("auto", "pattern", "ridge", "cascade", "adam")
BALANCES = ("auto", "equal", "information", None)
MAX_PATTERN_ROWS = 20_000  # rows that calibrate a pattern head; its moments see every image
MIN_IMAGES = 5  # a fifth is held out


@dataclass(frozen=True)
class Recipe:
    """How a head is to be solved; refuses what it does not know.

    Args: as in ``HRCAM.fit``.
    """

    loss: str = "cross_entropy"
    solver: str = "auto"
    penalty: float | str = "auto"
    balance_layers: str | None = "auto"
    standardize: bool = True
    epochs: int = 100
    batch_size: int = 32
    lr: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("loss", self.loss, LOSSES)
        one_of("solver", self.solver, SOLVERS)
        one_of("balance_layers", self.balance_layers, BALANCES)
        self._check_penalty()
        if self.solver in ("adam", "cascade") and self.balance_layers not in ("auto", None):
            raise ValueError(
                f"balance_layers: got {self.balance_layers!r} with solver={self.solver!r}, whose "
                "layers are balanced as they are. Use solver='pattern' or 'ridge'."
            )
        if self.solver == "cascade" and self.loss == "mse":
            raise ValueError(
                "loss: got 'mse' with solver='cascade', which learns where a class is. Use "
                "solver='pattern' or 'ridge'."
            )
        whole("epochs", self.epochs, 1)
        whole("batch_size", self.batch_size, 1)
        positive("lr", self.lr)

    def _check_penalty(self) -> None:
        if self.penalty == "auto":
            return
        if isinstance(self.penalty, str) or not 0 <= self.penalty < float("inf"):
            raise ValueError(
                f"penalty: got {self.penalty!r}, expected 'auto' or a finite number >= 0."
            )
        if self.solver not in ("auto", "ridge"):
            raise ValueError(
                f"penalty: got {self.penalty!r} with solver={self.solver!r}, which has none. Use "
                "solver='ridge' or leave penalty='auto'."
            )

    @property
    def max_rows(self) -> int | None:
        """Rows of features to keep; None for all."""
        return MAX_PATTERN_ROWS if self.solver in ("auto", "pattern", "cascade") else None

    def candidates(self) -> list["Recipe"]:
        """The recipes to choose between, the first the one to doubt least; one, but for "auto"."""
        if self.solver != "auto":
            return [self]
        if self.penalty != "auto":
            return [replace(self, solver="ridge")]  # the one that has a penalty
        pattern = replace(self, solver="pattern")
        if self.loss == "mse" or self.balance_layers != "auto":
            return [pattern]  # a cascade needs classes, and is balanced as it is
        return [replace(self, solver="cascade"), pattern]


@dataclass
class Chosen:
    """What was settled on held-out features before the solve, and why."""

    recipe: Recipe
    path: solvers.RidgePath | None = None
    information: dict[str, float] = field(default_factory=dict)
    weight: Tensor | None = None  # (K, N) on raw features, of a cascade
    why: list[str] = field(default_factory=list)


@dataclass
class Fitted:
    """A head, its double that no held-out image has touched, and figures for a ``FitReport``.

    Neither has its maps' spread yet.
    """

    head: Head
    trial: Head
    figures: dict[str, Any]


@torch.autocast("cpu", enabled=False)  # a caller's autocast is for the model, not for the solve
def fit_head(
    train: FeatureCollector,
    val: FeatureCollector | None,
    channels: Mapping[str, int],
    recipe: Recipe,
    local: Cascade,
) -> Fitted:
    """Choose on held-out features, then solve on all.

    Args:
        train: the training features.
        val: features that choices and figures are made on; None for a fifth of ``train``, which
            the head is then solved on too.
        channels: layer name -> C_l, in the order of the features.
        recipe: how to solve.
        local: what fits the layers of a cascade, used by that solver alone.
    """
    begin = time.perf_counter()
    if train.n < MIN_IMAGES:
        raise ValueError(f"train_data: got {train.n} images, expected at least {MIN_IMAGES}.")
    channels = dict(channels)
    features, moments = train.all()
    check_classes(moments.mean_y, recipe.loss)
    part, part_moments, held = train.split()
    if val is not None:
        part, part_moments, held = features, moments, val.all()[0]
    chosen = _choose(recipe, part, part_moments, held, channels)
    if recipe.solver == "cascade":
        chosen.weight = _cascade(local, part_moments, channels)
    weight, bias = _solve(chosen, features, moments, channels)
    head = trial = _head(weight, bias, moments, channels, chosen.recipe)
    held_weight, held_bias = weight, bias
    if val is None:  # figures are of a head that has not seen the held-out images
        held_weight, held_bias = _solve(chosen, part, part_moments, channels)
        trial = _head(held_weight, held_bias, part_moments, channels, chosen.recipe)
    scores = held.z.double() @ held_weight.T + held_bias
    path = chosen.path
    figures = {
        "n": train.n,
        "channels": channels,
        "shares": _shares(head, features, channels),
        "solver": recipe.solver,
        "balance_layers": chosen.recipe.balance_layers,
        "penalty": float(chosen.recipe.penalty) if recipe.solver == "ridge" else None,
        "penalty_path": path.rows() if path else [],
        "choices": chosen.why,
        "figures_from": f"{len(held)} {'held-out' if val is None else 'validation'} images",
        "seconds_solve": time.perf_counter() - begin,
        **agreement_figures(scores, held, recipe.loss),
    }
    return Fitted(head, trial, figures)


def _choose(
    recipe: Recipe, part: Features, moments: Moments, held: Features, channels: dict[str, int]
) -> Chosen:
    """Settle every "auto" on held-out features."""
    chosen = Chosen(recipe)
    if recipe.solver == "ridge" and recipe.penalty == "auto":
        x = _standardised(part, moments, recipe.standardize)
        held_x = _standardised(held, moments, recipe.standardize)
        chosen.path = solvers.ridge_path(x, part.y, held_x, held.y, recipe.loss)
        chosen.recipe = replace(chosen.recipe, penalty=chosen.path.chosen)
        chosen.why.append(
            f"penalty {chosen.path.chosen:g}: the strongest within one standard error of the best "
            "held-out loss"
        )
    if recipe.balance_layers == "auto":
        balance = "equal" if recipe.solver == "pattern" else None
        chosen.recipe = replace(chosen.recipe, balance_layers=balance)
        chosen.why.append(f"balance_layers {balance}: the default for {recipe.solver} heads")
    if recipe.balance_layers == "information":
        chosen.information = _information(part, moments, held, channels, recipe.loss)
        told = ", ".join(f"{name} {value:.2f}" for name, value in chosen.information.items())
        chosen.why.append(f"each layer alone tells, of 1, on held-out images: {told}")
    return chosen


def _solve(
    chosen: Chosen, rows: Features, moments: Moments, channels: dict[str, int]
) -> tuple[Tensor, Tensor]:
    """W (K, N) and b (K,) on raw features, scores calibrated, centred for a softmax."""
    recipe = chosen.recipe
    if recipe.solver == "adam":
        weight, bias = solvers.adam(
            rows,
            recipe.loss,
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            lr=recipe.lr,
            seed=recipe.seed,
        )
        return centre(weight, bias) if recipe.loss == "cross_entropy" else (weight, bias)
    if chosen.weight is not None:
        bias = -chosen.weight @ moments.mean_z
        # Its classes are learned apart from each other, so each has a scale of its own.
        return _calibrated(chosen.weight, bias, rows, recipe.loss, per_class=True)
    scale = moments.scale if recipe.standardize else torch.ones_like(moments.scale)
    if recipe.solver == "pattern":
        weight = solvers.pattern(moments) * (scale / moments.scale)
    else:
        x = _standardised(rows, moments, recipe.standardize)
        weight = solvers.ridge(x, rows.y, recipe.loss, [float(recipe.penalty)])[0]
    in_deviations = weight * (moments.scale / scale)
    factors = solvers.layer_norms(
        in_deviations, channels, recipe.balance_layers, chosen.information
    )
    zero = torch.zeros(len(weight), dtype=weight.dtype)
    weight, bias = fold(weight * factors, zero, moments.mean_z, scale)
    if recipe.loss == "cross_entropy":
        weight, bias = centre(weight, bias)
    return _calibrated(weight, bias, rows, recipe.loss)


def _calibrated(
    weight: Tensor, bias: Tensor, rows: Features, loss: str, per_class: bool = False
) -> tuple[Tensor, Tensor]:
    a, d = solvers.rescale(rows.z.double() @ weight.T + bias, rows.y, loss, per_class=per_class)
    return weight * a[:, None], bias * a + d


def _cascade(local: Cascade, moments: Moments, channels: dict[str, int]) -> Tensor:
    """(K, N) of all layers, from the pattern of the last."""
    pattern = split_layers(solvers.pattern(moments) / moments.scale, channels)
    means = {name: m[0] for name, m in split_layers(moments.mean_z[None], channels).items()}
    weights = local.fit(list(pattern.values())[-1], means)
    return torch.cat([weights[name] for name in channels], 1)


def _head(
    weight: Tensor, bias: Tensor, moments: Moments, channels: dict[str, int], recipe: Recipe
) -> Head:
    weights = split_layers(weight, channels)
    means = split_layers(moments.mean_z[None], channels)
    return Head(
        weights=weights,
        bias=bias,
        mean_score={name: w @ means[name][0] for name, w in weights.items()},
        centred=recipe.loss == "cross_entropy" and recipe.solver != "cascade",
    )


def _shares(head: Head, features: Features, channels: dict[str, int]) -> dict[str, Tensor]:
    parts = split_layers(features.z.double(), channels)
    return layer_shares({name: parts[name] @ w.T for name, w in head.weights.items()})


def _standardised(features: Features, moments: Moments, standardize: bool) -> Tensor:
    if not standardize:
        return features.z - moments.mean_z.to(features.z)
    x = (features.z.double() - moments.mean_z) / moments.scale
    return torch.where(moments.informative, x, torch.zeros_like(x)).to(features.z.dtype)


def _information(
    part: Features, moments: Moments, held: Features, channels: dict[str, int], loss: str
) -> dict[str, float]:
    """1 - loss / loss of the mean, of each layer's pattern alone on held-out data."""
    constant = torch.zeros_like(part.y, dtype=torch.float64)
    _, d = solvers.rescale(constant, part.y, loss)
    base = loss_per_sample(torch.zeros_like(held.y).double() + d, held.y, loss).mean()
    weights = split_layers(solvers.pattern(moments), channels)
    x = split_layers(_standardised(part, moments, True).double(), channels)
    held_x = split_layers(_standardised(held, moments, True).double(), channels)
    information = {}
    for name, weight in weights.items():
        a, d = solvers.rescale(x[name] @ weight.T, part.y, loss)
        value = loss_per_sample(held_x[name] @ weight.T * a + d, held.y, loss).mean()
        information[name] = max(0.0, 1 - (value / base).item())
    return information
