"""What a recipe leaves open, settled on held-out features before the solve."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from captum_hrcam import calibration, group, solvers
from captum_hrcam.cascade import Cascade
from captum_hrcam.features import Features
from captum_hrcam.head import split_layers
from captum_hrcam.head_and_model import layer_scores
from captum_hrcam.labels import loss_per_sample
from captum_hrcam.layer_counts import LeftOut, cascade_weight
from captum_hrcam.moments import Moments
from captum_hrcam.recipe import Recipe


@dataclass
class Settled:
    """What was settled, and why."""

    recipe: Recipe
    unit: Tensor  # (K,), see _unit
    path: solvers.RidgePath | None = None
    information: dict[str, float] = field(default_factory=dict)
    weight: Tensor | None = None  # (K, N) on raw features, of a cascade
    left_out: LeftOut = field(default_factory=LeftOut)
    why: list[str] = field(default_factory=list)


def settle(
    recipe: Recipe,
    part: Features,
    moments: Moments,
    held: Features,
    of_all: Moments,
    channels: dict[str, int],
    cascade: Cascade | None,
    left_out: LeftOut,
) -> Settled:
    """Settle on held-out features every "auto", and how a cascade counts layers or leaves some out.

    Args:
        recipe: how to solve.
        part: rows of the images that are not held out.
        moments: the moments of these images.
        held: rows of the images to settle on.
        of_all: the moments of all training images.
        channels: layer name -> C_l, in the order of the features.
        cascade: fits solver "cascade"; other solvers do without.
        left_out: layers that get no weight; a cascade finds its own.
    """
    settled = _autos(recipe, part, moments, held, channels)
    if recipe.solver == "cascade":
        assert cascade is not None, "it was built for this recipe"
        settled.weight, lines, left_out = cascade_weight(
            cascade, part, moments, held, of_all, channels, recipe.loss
        )
        settled.why = lines + settled.why
    settled.left_out, settled.why = left_out, [*left_out.why, *settled.why]
    return settled


def _autos(
    recipe: Recipe, part: Features, moments: Moments, held: Features, channels: dict[str, int]
) -> Settled:
    """Settle every "auto"."""
    unit = _unit(part, recipe.loss)
    settled = Settled(recipe, unit)
    if recipe.solver == "ridge" and recipe.penalty == "auto":
        x, held_x = (
            torch.cat(list(rows.less_mean(moments, scaled=recipe.standardize)))
            for rows in (part, held)
        )
        settled.path = solvers.ridge_path(x, part.y / unit, held_x, held.y / unit, recipe.loss)
        settled.recipe = replace(settled.recipe, penalty=settled.path.chosen)
        settled.why.append(
            f"penalty {settled.path.chosen:g}: the strongest within one standard error of the best "
            "held-out loss"
        )
    if recipe.balance_layers == "auto":
        balance = "equal" if recipe.solver == "pattern" else None
        settled.recipe = replace(settled.recipe, balance_layers=balance)
        if recipe.solver != "cascade":  # a cascade says itself how its layers count
            settled.why.append(f"balance_layers {balance}: the default for {recipe.solver} heads")
    if recipe.balance_layers == "information":
        settled.information = _information(part, moments, held, channels, recipe.loss)
        told = ", ".join(f"{name} {value:.2f}" for name, value in settled.information.items())
        settled.why.append(f"each layer alone tells, of 1, on held-out images: {told}")
    return settled


def _unit(part: Features, loss: str) -> Tensor:
    """(K,) each output's deviation for real values, so that the unit of one output does not change
    the others' maps; 1 for classes."""
    spread = group.gather(part.y.double()).std(0, correction=0)
    ones = torch.ones_like(spread)
    return torch.where(spread > 0, spread, ones) if loss == "mse" else ones


def _information(
    part: Features, moments: Moments, held: Features, channels: dict[str, int], loss: str
) -> dict[str, float]:
    """What each layer's pattern tells alone on held-out data: 1 - loss / loss of the mean."""
    y, held_y = group.gather(part.y.double()), group.gather(held.y.double())
    _, d = calibration.rescale(torch.zeros_like(y), y, loss)
    base = loss_per_sample(torch.zeros_like(held_y) + d, held_y, loss).mean()
    weights = split_layers(solvers.pattern(moments) / moments.scale, channels)
    scores, held_scores = layer_scores(part, weights), layer_scores(held, weights)
    information = {}
    for name in channels:
        a, d = calibration.rescale(scores[name], y, loss)
        value = loss_per_sample(held_scores[name] * a + d, held_y, loss).mean()
        information[name] = max(0.0, 1 - (value / base).item())
    return information
