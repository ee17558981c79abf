"""Methods on images with masks: every figure of every method, in one pass over the data."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_hrcam.batch import device_of
from captum_hrcam.checks import whole
from captum_hrcam.compare import Method, Methods, compare, models_of, named_methods
from captum_hrcam.evaluation.baselines import with_baselines
from captum_hrcam.evaluation.batches import ALL, MaskedBatch, masked_batches
from captum_hrcam.evaluation.measures import Score, SetFigures, default_metrics
from captum_hrcam.evaluation.result import Evaluation
from captum_hrcam.metrics.extras import require
from captum_hrcam.metrics.pairs import Array
from captum_hrcam.modes import eval_mode


def evaluate(
    methods: Methods,
    data: Any,
    *,
    metrics: Mapping[str, Score] | None = None,
    faithfulness: Mapping[str, Score] | None = None,
    target: int | None = None,
    batch_size: int = 32,
    baselines: bool = True,
    show_progress: bool = False,
) -> Evaluation:
    r"""
    Score each method's map of each image against its mask: figures, means, intervals and tests.

    The data are read once, with the models in eval mode; no map outlives its batch. Images with an
    empty mask are kept. A figure that is undefined for them is NaN, which is counted, and left out
    of means. Their pixels are background in PxAP.

    Args:
        methods (dict, list, or one): as for :func:`~captum_hrcam.compare`.
        data (iterable or Dataset): batches ``(inputs, target, mask)`` or
            ``(inputs, target, mask, kind)``, several inputs as a tuple, kinds as a list of str; or
            a data set of ``(image, label)`` with a method ``mask(i)`` and perhaps ``kind(i)``, as
            :class:`~captum_hrcam.datasets.SimulatedPathology`, or a ``Subset`` of one. Masks have
            the size of the first input, (N, \*spatial) or (N, 1, \*spatial), 2D or 3D. For a model
            that takes an image and a table, give ``((image, table), target, mask)``. The first
            input without spatial dimensions, (N,) or (N, F), and all after it go to each method as
            ``additional_forward_args``; a method that is a function gets the image alone as
            ``inputs``, and a tuple of the others.
        metrics (dict): {name: f(maps, masks) -> (N,)}, instead of those of
            :func:`~captum_hrcam.evaluation.default_metrics`; maps come as (N, 1, \*spatial)
            float64, masks as (N, \*spatial) bool, on the CPU. With ``{}`` masks are neither needed
            nor used: batches may be ``(inputs, target)``, and the whole set has no figures.
        faithfulness (dict): {name: f(inputs, maps, targets) -> (N,)}: figures that look at the
            model, not at masks. Their arguments are on the model's device, targets (N,). Inputs
            without spatial dimensions, if the data hold any, are passed as the keyword
            ``additional_forward_args``.
        target (int): the class to explain in all images; by default each image's own label. A
            model with one output has only 0.
        batch_size (int): for a data set; a loader has its own.
        baselines (bool): add rows for the centred Gaussian and, if no method is a CAM, for the
            CAM of the deepest layer that a method names. Warns if the model allows no CAM, or its
            classifier reads another layer.
        show_progress (bool): a progress bar over batches.

    Returns:
        *Evaluation*: ``.frame`` has one row for each figure, ``.pooled`` the set's figures (PxAP,
        MaxBoxAccV2, the best common threshold's IoU; in 3D VxAP and no boxes), ``.roc`` the
        methods' ROC curves; see also ``.summary()`` and ``.tests(reference)``. ``print`` shows a
        table.

    Raises:
        TypeError: data, methods, metrics or faithfulness are of another type than these.
        ValueError: no data; no target; no mask, or one of another size; a method's map holds NaN;
            a figure that is not one finite number (or NaN) for each image.
        ImportError: the extra ``eval`` is not installed.

    Examples::

        >>> import torch
        >>> from torch import nn
        >>> from captum_hrcam import CAM
        >>> from captum_hrcam.datasets import SimulatedPathology
        >>> model = nn.Sequential(
        ...     nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(),
        ...     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        >>> result = evaluate(CAM(model, "1"), SimulatedPathology(8, 32), target=1)
        >>> result.methods
        ['CAM', 'centred Gaussian']
        >>> table = result.summary(by_kind=True)
        >>> row = table[table["metric"] == "pixel AP"].iloc[0]  # CAM's, of images without lesion
        >>> str(row["kind"]), int(row["n"]), int(row["n_undefined"])
        ('normative', 0, 4)
        >>> tests = result.tests("centred Gaussian", metric=["pixel AP", "pixel AUROC"])
        >>> tests["n"].tolist()
        [4, 4]
    """
    for package in ("pandas", "scipy", "sklearn"):
        require(package)
    named = named_methods(methods)
    scores = default_metrics() if metrics is None else _scores(metrics, "metrics")
    seeing = _scores(faithfulness or {}, "faithfulness")
    _refuse_names(scores, seeing)
    whole("batch_size", batch_size, 1)
    if target is not None:
        whole("target", target, 0)
    batches, total = masked_batches(
        data, target=target, batch_size=batch_size, need_masks=bool(scores)
    )
    figures = _Figures(scores, seeing)
    models = models_of(named)
    device = device_of(models[0]) if models else None
    with eval_mode(*models):
        bar = tqdm(batches, desc="evaluating", total=total, disable=not show_progress)
        for i, batch in enumerate(checked.on(device) for checked in bar):
            figures.kinds += batch.kinds
            figures.add(named, batch)
            if baselines and i == 0:  # after the methods: what they refuse is no fault of CAM's
                rows = with_baselines(named, batch.inputs, batch.targets, batch.args)
                figures.add({name: rows[name] for name in rows if name not in named}, batch)
                named = rows
    return figures.evaluation()


class _Figures:
    """Collects every figure of every method, batch by batch."""

    def __init__(self, scores: dict[str, Score], seeing: dict[str, Score]) -> None:
        self.scores, self.seeing = scores, seeing
        self.kinds: list[str] = []
        self.values: dict[tuple[str, str], list[Array]] = {}  # (method, metric)
        self.of_set: dict[str, SetFigures] = {}

    def add(self, methods: Mapping[str, Method], batch: MaskedBatch) -> None:
        """The methods' figures of a batch, whose kinds were added before."""
        for name, method in methods.items():  # one at a time: one method's maps in memory
            maps = compare({name: method}, batch.inputs, batch.targets, batch.args or None)[name]
            finite = torch.isfinite(maps.flatten(1)).all(1).cpu()
            if not finite.all():
                first = len(self.kinds) - len(maps) + int(finite.int().argmin())
                raise ValueError(
                    f"methods: {name!r} gave NaN or infinity for image {first}, expected finite "
                    "maps. Leave the method out, or repair the model or images that made them."
                )
            if batch.masks is not None:
                self._against_masks(name, maps.cpu().double(), batch.masks)
            if self.seeing:
                self._against_the_model(name, maps, batch)

    def _against_masks(self, name: str, maps: Tensor, masks: Tensor) -> None:
        for metric, score in self.scores.items():
            self._keep(name, metric, score(maps, masks), "metrics", len(maps))
        self.of_set.setdefault(name, SetFigures(masks.ndim - 1)).update(maps, masks)

    def _against_the_model(self, name: str, maps: Tensor, batch: MaskedBatch) -> None:
        dtype = torch.promote_types(batch.images.dtype, torch.float32)
        near = maps.to(batch.images.device, dtype)
        more = {"additional_forward_args": batch.args} if batch.args else {}
        for metric, score in self.seeing.items():
            values = score(batch.inputs, near, batch.targets, **more)
            self._keep(name, metric, values, "faithfulness", len(maps))

    def _keep(self, method: str, metric: str, values: Any, argument: str, n: int) -> None:
        values = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values
        array = np.asarray(values, dtype=np.float64)
        if array.shape != (n,) or np.isinf(array).any():
            got = "infinity" if array.shape == (n,) else f"shape {array.shape}"
            raise ValueError(
                f"{argument}: {metric!r} gave {got} for {n} images, expected one "
                f"finite number, or NaN where undefined, for each, ({n},)."
            )
        self.values.setdefault((method, metric), []).append(array)

    def evaluation(self) -> Evaluation:
        n, pandas = len(self.kinds), require("pandas")
        if n == 0:
            raise ValueError("data: it gave no batch, expected at least one image.")
        frame = {
            "image": np.tile(np.arange(n), len(self.values)),
            "kind": self.kinds * len(self.values),
            "method": list(chain.from_iterable([method] * n for method, _ in self.values)),
            "metric": list(chain.from_iterable([metric] * n for _, metric in self.values)),
            "value": np.concatenate([np.concatenate(parts) for parts in self.values.values()]),
        }
        pooled = [
            (method, ALL, metric, value)
            for method, figures in self.of_set.items()
            for metric, value in figures.compute().items()
        ]
        columns = ["method", "kind", "metric", "value"]
        return Evaluation(
            pandas.DataFrame(frame),
            pandas.DataFrame(pooled, columns=columns),
            {method: figures.pooled.roc() for method, figures in self.of_set.items()},
        )


def _scores(given: object, argument: str) -> dict[str, Score]:
    of = {"metrics": "f(maps, masks)", "faithfulness": "f(inputs, maps, targets)"}[argument]
    if not isinstance(given, Mapping):
        raise TypeError(
            f"{argument}: got {type(given).__name__}, expected a mapping {{name: {of} -> (N,)}}."
        )
    for name, score in given.items():
        if not callable(score):
            raise TypeError(
                f"{argument}: {name!r} is {type(score).__name__}, expected a function {of} -> (N,)."
            )
    return {str(name): score for name, score in given.items()}


def _refuse_names(scores: dict[str, Score], seeing: dict[str, Score]) -> None:
    if not scores and not seeing:
        raise ValueError("metrics: got none and no faithfulness, expected at least one figure.")
    both = sorted(scores.keys() & seeing.keys())
    if both:
        raise ValueError(
            f"faithfulness: {both[0]!r} is also the name of a metric. Give it another name."
        )
