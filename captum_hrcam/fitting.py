"""From pooled features to a head: settle the options, solve, balance layers, calibrate, fold."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_hrcam import group, solvers
from captum_hrcam.calibration import calibrated
from captum_hrcam.cascade import Cascade
from captum_hrcam.features import MAX_SAMPLE, FeatureCollector, Features
from captum_hrcam.head import Head, centre, fold, split_layers
from captum_hrcam.head_and_model import head_figures, layer_scores
from captum_hrcam.labels import check_classes
from captum_hrcam.layer_counts import LeftOut
from captum_hrcam.levels import levelled
from captum_hrcam.modes import full_precision
from captum_hrcam.moments import Moments
from captum_hrcam.recipe import Recipe
from captum_hrcam.settling import Settled, settle


@dataclass
class Fitted:
    """A head, a trial head fitted without held-out images, figures for a ``FitReport``, and the
    layers that got no weight.

    ``Revisit`` adds the spread of the head's maps, and what placing and choosing find.
    """

    head: Head
    trial: Head
    figures: dict[str, Any]
    left_out: LeftOut


def fit_head(
    train: FeatureCollector,
    val: FeatureCollector | None,
    channels: Mapping[str, int],
    recipe: Recipe,
    cascade: Cascade | None,
    left_out: LeftOut,
) -> Fitted:
    """Choose on held-out features, then solve on all.

    Args:
        train: the training features.
        val: features that choices and figures are made on. None takes a fifth of ``train``, which
            the head itself is then also solved on.
        channels: layer name -> C_l, in the order of the features.
        recipe: how to solve.
        cascade: fits solver "cascade"; other solvers do without.
        left_out: layers that get no weight; a cascade finds its own.
    """
    begin = time.perf_counter()
    channels = dict(channels)
    rows, (moments, part_moments) = train.rows(), train.moments()
    check_classes(moments.mean_y, recipe.loss)
    sample = rows.sample(group.part(MAX_SAMPLE))
    part, held = sample[~sample.held], sample[sample.held]
    if val is not None:
        part, part_moments, held = sample, moments, val.rows().sample(group.part(MAX_SAMPLE))
    settled = settle(recipe, part, part_moments, held, moments, channels, cascade, left_out)
    linear = _solve(settled, rows, sample, moments, channels)
    if not all(values.float().isfinite().all() for values in linear):  # the dtype of maps
        raise ValueError(
            f"train_data: solver {recipe.solver!r} finds no finite head, as the features are too "
            "small or too large for float32. Scale the inputs as in the model's training."
        )
    head = trial = _head(*linear, moments, channels, settled.recipe)
    if val is None:  # figures are made with a head that has not seen the held-out images
        linear = _solve(settled, part, part, part_moments, channels)
        trial = _head(*linear, part_moments, channels, settled.recipe)
    scores, y, outputs = map(group.gather, (held.scores(*linear), held.y, held.outputs))
    path, layers = settled.path, layer_scores(sample, head.weights)
    figures = head_figures(moments, channels, layers, scores, y, outputs, recipe.loss)
    figures |= {
        "figures_from": f"{len(y)} {'held-out' if val is None else 'validation'} images",
        "solver": recipe.solver,
        "balance_layers": settled.recipe.balance_layers,
        "penalty": float(settled.recipe.penalty) if recipe.solver == "ridge" else None,
        "penalty_path": path.rows() if path else [],
        "choices": settled.why,
        "seconds_solve": time.perf_counter() - begin,
    }
    return Fitted(head, trial, figures, settled.left_out)


def fit_heads(
    train: FeatureCollector,
    val: FeatureCollector | None,
    channels: Mapping[str, int],
    recipes: Sequence[Recipe],
    cascade: Cascade | None,
) -> dict[str, Fitted]:
    """Fit a head by each recipe, as {solver: its head}; arguments as for ``fit_head``.

    A cascade comes first: the other heads leave out the layers that it did.
    """
    fits, left_out = dict[str, Fitted](), LeftOut()
    with full_precision(torch.device("cpu")):  # a caller's autocast is for the model only
        for recipe in recipes:
            fitted = fit_head(train, val, channels, recipe, cascade, left_out)
            fits[recipe.solver], left_out = fitted, fitted.left_out
    return fits


def _solve(
    settled: Settled, rows: Features, sample: Features, moments: Moments, channels: dict[str, int]
) -> tuple[Tensor, Tensor]:
    """W (K, N) and b (K,) on raw features, solved on all ``rows``; for a softmax centred, but for a
    cascade. But for adam the scores are calibrated on the sample."""
    recipe, unit = settled.recipe, settled.unit
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
    if settled.weight is not None:
        bias = -settled.weight @ moments.mean_z
        # A cascade learns each class apart from the others, so each has a scale of its own.
        linear = calibrated(settled.weight, bias, sample, recipe.loss, per_class=True)
        return levelled(*linear, sample, moments, recipe.loss)
    scale = moments.scale
    if recipe.solver == "pattern":
        weight = solvers.pattern(moments) / unit[:, None]
    else:
        weight = _ridge(recipe, rows, moments, unit)
        scale = scale if recipe.standardize else torch.ones_like(scale)
    for name, part in zip(channels, weight.split(list(channels.values()), 1), strict=True):
        if name in settled.left_out.layers:
            part.zero_()
    in_deviations = weight * (moments.scale / scale)
    factors = solvers.layer_norms(
        in_deviations, channels, recipe.balance_layers, settled.information
    )
    zero = torch.zeros(len(weight), dtype=weight.dtype)
    weight, bias = fold(weight * factors * unit[:, None], zero, moments.mean_z, scale)
    if recipe.loss == "cross_entropy":
        weight, bias = centre(weight, bias)
    return calibrated(weight, bias, sample, recipe.loss)


def _ridge(recipe: Recipe, rows: Features, moments: Moments, unit: Tensor) -> Tensor:
    """W (K, N) for targets divided by their unit, on features less their mean, standardised or not.
    Rows on disk are read again for each step; rows in memory are prepared once."""

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        x = rows.less_mean(moments, scaled=recipe.standardize)
        yield from zip(x, (part.y.double() / unit for part in rows.chunks()), strict=True)

    in_memory = None if rows.forget else list(batches())
    return solvers.ridge(
        batches if in_memory is None else lambda: in_memory,
        group.count(len(rows)),
        recipe.loss,
        [float(recipe.penalty)],
    )[0]


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
        loss=recipe.loss,
    )
