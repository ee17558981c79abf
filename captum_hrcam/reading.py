"""The data of a fit, read once: through the frozen model, or from the cache of an earlier fit."""

import os
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from captum_hrcam import group
from captum_hrcam.attribution import HeadAttribution
from captum_hrcam.batch import device_of
from captum_hrcam.cache import NEVER, DataDigest, FeatureCache, is_read_once, model_digest
from captum_hrcam.features import FeatureCollector, Sample
from captum_hrcam.frozen_pass import FrozenPass
from captum_hrcam.labels import target_rows
from captum_hrcam.modes import autocast_dtype
from captum_hrcam.recipe import Recipe
from captum_hrcam.revisit import Revisit
from captum_hrcam.rows import AllRows

MIN_IMAGES = 5  # a fifth is held out


@dataclass
class Reading:
    """How the data are read.

    Args:
        frozen: the model.
        revisit: its samples are filled while the images pass by.
        keep_all: whether the features of every image are kept.
        n_passes: how often to read the training data.
        cache: where the features are kept between fits; None keeps none.
        show_progress: draw progress bars.

    Attributes:
        notes: what a report should say about the reading.
    """

    frozen: FrozenPass
    revisit: Revisit
    keep_all: bool
    n_passes: int
    cache: FeatureCache | None
    show_progress: bool
    notes: list[str] = field(default_factory=list)

    def read(
        self, train_data: Iterable[Any], val_data: Iterable[Any] | None
    ) -> tuple[FeatureCollector, FeatureCollector | None]:
        """The features of the training data and of the validation data, if there are any.

        Raises:
            ValueError: fewer than five training images, or all images of a rank are held out.
        """
        with torch.random.fork_rng(devices=[]):  # a shuffling loader draws from the global state
            train = self._known(train_data)
            if train is None:
                train = self._train(train_data, self.revisit.held if val_data is None else None)
            n_images = train.n // self.n_passes
            if n_images < MIN_IMAGES:
                whose = " on each rank" if group.size() > 1 else ""
                raise ValueError(
                    f"train_data: got {n_images} images, expected at least {MIN_IMAGES}{whose}."
                )
            if train.by_part[False].n == 0:  # with few images on many ranks
                raise ValueError(
                    f"train_data: all {train.n} images of rank {group.rank()} are among the fifth "
                    "that is held out. Give each rank more images."
                )
            val = None
            if val_data is not None:
                val, note = FeatureCollector(), "HR-CAM validation" if self.show_progress else None
                every = self.revisit.held  # no trial head has seen any of them
                self.frozen.read(val_data, "val_data", val, every=every, progress=note)
        return train, val

    def _train(self, data: Iterable[Any], held: Sample | None) -> FeatureCollector:
        """One frozen pass, or several over an augmenting loader."""
        if self.cache is None:
            collector = FeatureCollector(AllRows()) if self.keep_all else FeatureCollector()
            self._passes(data, collector, held)
            if collector.kept.forget is not None:
                self.notes.append(
                    "features: on disk while fitting, as they exceed a quarter of the memory; name "
                    "a folder with cache to keep them"
                )
            return collector
        with self.cache.writing() as rows:
            collector, digest = FeatureCollector(rows), DataDigest()
            self._passes(data, collector, held, digest)
            seen = {"channels": self.frozen.channels, "resolutions": self.frozen.resolutions}
            self.cache.complete(collector, digest, seen)
        return collector

    def _passes(
        self,
        data: Iterable[Any],
        collector: FeatureCollector,
        held: Sample | None,
        digest: DataDigest | None = None,
    ) -> None:
        for i in range(self.n_passes):
            self.frozen.read(
                data,
                "train_data",
                collector,
                self.revisit.images,
                held,
                digest=digest,
                progress=self._progress("pass", i),
            )

    def _known(self, data: Iterable[Any]) -> FeatureCollector | None:
        """What an earlier fit on the same data left in the cache, or None; no forward pass."""
        candidate = None if self.cache is None or is_read_once(data) else self.cache.candidate()
        if self.cache is None or candidate is None:
            return None
        digest, images = DataDigest(), Sample(self.revisit.images.size)
        with ExitStack() as unless_known:
            unless_known.callback(candidate["file"].close)
            for i in range(self.n_passes):
                progress = self._progress("comparison", i)
                self.frozen.fingerprint(data, "train_data", digest, images, progress=progress)
            if digest.value() != candidate["about"]["data"]:
                return None
            unless_known.pop_all()
        self.revisit.images = self._with_targets(images, candidate)
        self.frozen.channels = candidate["seen"]["channels"]
        self.frozen.resolutions = {k: tuple(v) for k, v in candidate["seen"]["resolutions"].items()}
        self.notes.append(
            f"features: those in {str(self.cache.folder)!r}, of the same model, layers and images"
        )
        return self.cache.restore(candidate)

    def _with_targets(self, images: Sample, candidate: dict[str, Any]) -> Sample:
        """The sample with labels turned into target rows, without columns for targets="model"."""
        *inputs, y = images.rows()
        if self.frozen.targets == "labels":
            k = len(candidate["moments"][False].mean_y)
            y = target_rows(y, len(y), k, self.frozen.loss)
        known = Sample(images.size)
        known.add(*inputs, y)
        return known

    def _progress(self, what: str, i: int) -> str | None:
        return f"HR-CAM {what} {i + 1} of {self.n_passes}" if self.show_progress else None


def open_cache(
    folder: str | os.PathLike[str] | None,
    method: HeadAttribution,
    recipe: Recipe,
    solver: str,
    options: tuple[Any, ...],
) -> FeatureCache | None:
    """The cache in this folder; None without a folder.

    Args:
        folder: the argument ``cache`` of a fit.
        method: holds the model and its layers.
        recipe: how the head is to be solved.
        solver: the argument of the fit that led to this recipe.
        options: of the fit, on which the features and targets depend.

    Raises:
        ValueError: the solver keeps no features that could be cached.
        OSError: the folder cannot be written.
    """
    if folder is None:
        return None
    if not recipe.needs_all_rows:
        raise ValueError(
            f"cache: got {os.fspath(folder)!r} with solver={solver!r}, which keeps no features of "
            "all images. Use solver='ridge', or leave cache=None."
        )
    is_known = method.reshape_transform is None  # functions cannot be told apart
    about = {
        "model": model_digest(method.forward_func) if is_known else NEVER,
        "layers": list(method.layers),
        "to_input": method.attribute_to_layer_input,
        "options": options,
        "autocast": autocast_dtype(device_of(method.forward_func)),
    }
    return FeatureCache(Path(folder), about)
