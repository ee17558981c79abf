"""From pooled features to a head: solve, balance layers, calibrate, fold, report."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from captum_hrcam import solvers
from captum_hrcam.features import FeatureCollector, Features, Moments
from captum_hrcam.head import Head, centre, fold, split_layers
from captum_hrcam.labels import check_classes, loss_per_sample
from captum_hrcam.report import FitReport, agreement_figures, layer_shares

SOLVERS = ("pattern", "ridge", "adam")
BALANCES = ("auto", "equal", "information", None)
MAX_PATTERN_ROWS = 20_000  # rows that calibrate a pattern head; its moments see every image


def fit_head(
    train: FeatureCollector,
    val: FeatureCollector | None,
    channels: Mapping[str, int],
    *,
    loss: str,
    solver: str,
    penalty: float | str,
    balance_layers: str | None,
    standardize: bool,
    adam: Mapping[str, Any],
) -> tuple[Head, dict[str, Any]]:
    """Choose on held-out features, then solve on all.

    Returns:
        The head without its maps' spread, and the figures for a ``FitReport``.
    """
    begin = time.perf_counter()
    channels = dict(channels)
    features, moments = train.all()
    check_classes(moments.mean_y, loss)
    fit_part, fit_moments, held = train.split()
    if val is not None:
        fit_part, fit_moments, held = features, moments, val.all()[0]
    choices: list[str] = []
    path = None
    if solver == "ridge" and penalty == "auto":
        path = solvers.ridge_path(
            _standardised(fit_part, fit_moments, standardize),
            fit_part.y,
            _standardised(held, fit_moments, standardize),
            held.y,
            loss,
        )
        penalty = path.chosen
        choices.append(f"penalty {penalty:g}: the strongest within one standard error of the best")
    if balance_layers == "auto":
        balance_layers = "equal" if solver == "pattern" else None
        choices.append(f"balance_layers {balance_layers}: what measured best for {solver} heads")
    information: dict[str, float] = {}
    if balance_layers == "information":
        information = _information(fit_part, fit_moments, held, channels, loss)
        told = ", ".join(f"{name} {value:.2f}" for name, value in information.items())
        choices.append(f"information of each layer alone, on held-out data: {told}")

    def solve(rows: Features, of: Moments) -> tuple[Tensor, Tensor]:
        if solver == "adam":
            weight, bias = solvers.adam(rows, loss, **adam)
        else:
            weight, bias = _solve_linear(
                rows, of, channels, solver, loss, penalty, balance_layers, information, standardize
            )
        return centre(weight, bias) if loss == "cross_entropy" else (weight, bias)

    weight, bias = solve(features, moments)
    # Figures on data that the head has not seen: a head of the fit part when there is no val_data.
    held_weight, held_bias = (weight, bias) if val is not None else solve(fit_part, fit_moments)
    held_scores = held.z.double() @ held_weight.T + held_bias
    weights = split_layers(weight, channels)
    means = split_layers(moments.mean_z[None], channels)
    head = Head(
        weights=weights,
        bias=bias,
        mean_score={name: w @ means[name][0] for name, w in weights.items()},
        spread={name: torch.zeros(len(bias), dtype=torch.float64) for name in weights},
        centred=loss == "cross_entropy",
    )
    parts = split_layers(features.z.double(), channels)
    report = {
        "n": train.n,
        "channels": channels,
        "shares": layer_shares({name: parts[name] @ w.T for name, w in weights.items()}),
        "solver": solver,
        "balance_layers": balance_layers,
        "penalty": float(penalty) if solver == "ridge" else None,
        "penalty_path": list(zip(path.penalties, path.losses, path.errors, strict=True))
        if path
        else [],
        "choices": choices,
        "figures_from": f"{len(held)} {'validation' if val is not None else 'held-out'} images",
        "seconds_solve": time.perf_counter() - begin,
        **agreement_figures(held_scores, held, loss),
    }
    return head, report


def _solve_linear(
    rows: Features,
    moments: Moments,
    channels: dict[str, int],
    solver: str,
    loss: str,
    penalty: float | str,
    balance: str | None,
    information: dict[str, float],
    standardize: bool,
) -> tuple[Tensor, Tensor]:
    """A pattern or ridge head with calibrated scores, on raw features."""
    scale = moments.scale if standardize else torch.ones_like(moments.scale)
    if solver == "pattern":
        weight = solvers.pattern(moments) * (scale / moments.scale)
    else:
        x = _standardised(rows, moments, standardize)
        weight = solvers.ridge(x, rows.y, loss, [float(penalty)])[0]
    unit = moments.scale / scale  # what one step of this feature is in standard deviations
    factors = solvers.layer_norms(weight * unit, channels, balance, information)
    weight, bias = fold(weight * factors, torch.zeros(len(weight)).double(), moments.mean_z, scale)
    if loss == "cross_entropy":
        weight, bias = centre(weight, bias)
    a, d = solvers.rescale(rows.z.double() @ weight.T + bias, rows.y, loss)
    return weight * a[:, None], bias * a + d


def _standardised(features: Features, moments: Moments, standardize: bool) -> Tensor:
    if not standardize:
        return features.z - moments.mean_z.to(features.z)
    x = (features.z.double() - moments.mean_z) / moments.scale
    return torch.where(moments.informative, x, torch.zeros_like(x)).to(features.z.dtype)


def _information(
    fit_part: Features, moments: Moments, held: Features, channels: dict[str, int], loss: str
) -> dict[str, float]:
    """1 - loss / loss of the mean, of each layer's pattern alone on held-out data."""
    constant = torch.zeros_like(fit_part.y, dtype=torch.float64)
    _, d = solvers.rescale(constant, fit_part.y, loss)
    base = loss_per_sample(torch.zeros_like(held.y).double() + d, held.y, loss).mean()
    weights = split_layers(solvers.pattern(moments), channels)
    x = split_layers(_standardised(fit_part, moments, True).double(), channels)
    held_x = split_layers(_standardised(held, moments, True).double(), channels)
    information = {}
    for name, weight in weights.items():
        a, d = solvers.rescale(x[name] @ weight.T, fit_part.y, loss)
        value = loss_per_sample(held_x[name] @ weight.T * a + d, held.y, loss).mean()
        information[name] = max(0.0, 1 - (value / base).item())
    return information


def report_from(figures: Mapping[str, Any], **rest: Any) -> FitReport:
    """A ``FitReport`` with the warnings that its figures call for."""
    report = FitReport(**figures, **rest)
    if report.agreement < 0.9:
        report.warnings.append(
            f"head and model agree on {report.agreement:.1%} of images only: the map explains the "
            "head. Try targets='model' or more layers."
        )
    n_features = sum(report.channels.values())
    weak = report.solver == "adam" or (report.penalty is not None and report.penalty < 0.1)
    if weak and n_features > report.n / 10:
        report.warnings.append(
            f"a weakly penalised head on {n_features} features of {report.n} images uses channels "
            "that cancel noise: expect poor maps. Use solver='pattern' for maps."
        )
    return report
