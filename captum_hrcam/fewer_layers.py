"""Fit heads and keep one; without the deeper layers where the model's outputs do not speak for maps
that these are part of."""

from collections.abc import Callable

from captum_hrcam.cascade import Cascade
from captum_hrcam.choosing import ENOUGH, Verdict, doubtful
from captum_hrcam.fitting import Fitted
from captum_hrcam.grain import Sizes
from captum_hrcam.revisit import Revisit

DEEPER = (
    "without {}: the model's outputs did not speak for maps that these layers are part of, as "
    "where deep layers mix all places; solver='cascade' keeps them"
)
IN_VAIN = "all layers stay: without the deeper ones the outputs do not speak for the maps either"

Fit = Callable[[Cascade | None], dict[str, Fitted]]


def fit_and_choose(revisit: Revisit, fit: Fit, resolutions: Sizes) -> Fitted:
    """Fit the heads and choose one by the model's outputs.

    If the outputs do not speak for the chosen head's maps, heads are fitted and judged again
    without the deeper half of the layers, and so on down to a single layer. Of the heads that the
    outputs then speak for, the one with the largest margin is kept; if there is none, all layers
    are.

    Args:
        revisit: the images to choose on.
        fit: cascade (None without one) -> {solver: its head}; called again for fewer layers.
        resolutions: layer name -> spatial size, shallow to deep.
    """
    layers = list(resolutions)
    of_all, verdict = _best(revisit, fit, resolutions)
    if verdict is None or not doubtful(verdict.support) or len(layers) == 1:
        return of_all
    kept, why, largest = of_all, IN_VAIN, 0.0
    while len(layers) > 1:
        layers = layers[: (len(layers) + 1) // 2]
        part = {name: resolutions[name] for name in layers}
        chosen, verdict = _best(revisit, fit, part)
        assert verdict is not None, "there were several heads before"
        if verdict.support >= ENOUGH and verdict.margin > largest:
            deeper = [name for name in resolutions if name not in part]
            kept, why, largest = chosen, DEEPER.format(", ".join(deeper)), verdict.margin
    kept.figures["choices"].insert(1, why)
    return kept


def _best(revisit: Revisit, fit: Fit, resolutions: Sizes) -> tuple[Fitted, Verdict | None]:
    """Of the heads on these layers the one to keep, and the verdict; None if there is only one
    head."""
    fits = fit(revisit.cascade_of(resolutions))
    revisit.add_spreads(fits.values())
    if len(fits) == 1:
        return next(iter(fits.values())), None
    verdict = revisit.choose({name: fitted.trial for name, fitted in fits.items()})
    chosen = fits[verdict.name]
    chosen.figures |= {"support": verdict.support, "change": verdict.change}
    chosen.figures["choices"].insert(0, f"solver {verdict.why}")
    return chosen, verdict
