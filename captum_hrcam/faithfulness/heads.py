"""HRCAM on a randomised copy of its model: with the head it has, or with one fitted anew."""

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from captum_hrcam.faithfulness.randomization import Build
from captum_hrcam.hrcam import HRCAM


def head_kept(hrcam: HRCAM) -> Build:
    """HRCAM with its own head on a copy of the model: only the feature maps are randomised.

    Args:
        hrcam (HRCAM): fitted, on the model that :func:`randomization` is given.

    Returns:
        Callable: for ``methods`` of :func:`randomization`.

    Raises:
        TypeError: ``hrcam`` is not an HRCAM.
        RuntimeError: it is not fitted.
        ValueError: it is built on a function around the model, so its layers have no names.

    Examples::

        >>> import torch
        >>> from captum_hrcam.faithfulness import randomization
        >>> model = nn.Sequential(
        ...     nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        ...     nn.Linear(4, 2))
        >>> images, labels = torch.randn(20, 1, 8, 8), torch.arange(20) % 2
        >>> hrcam = HRCAM(model, "1")
        >>> report = hrcam.fit([(images, labels)])
        >>> methods = {
        ...     "head kept": head_kept(hrcam),
        ...     "head fitted anew": head_refitted(hrcam, [(images, labels)])}
        >>> table = randomization(model, methods, images, target=1)
        >>> len(table) == 2 * 3 * 20 * 2  # methods, stages, images, metrics
        True
    """
    _check_named(hrcam)
    _ = hrcam.head  # refuses an unfitted one before any work

    def build(copy: nn.Module) -> HRCAM:
        kept = _on(copy, hrcam)
        kept._head = hrcam.head
        return kept

    return build


def head_refitted(hrcam: HRCAM, train_data: Iterable[Any], **options: Any) -> Build:
    """HRCAM on the same layers of a copy of the model, its head fitted to the randomised features.

    The report's warnings are silenced: that a random model's features tell the classes badly is
    what the test is about.

    Args:
        hrcam (HRCAM): says which layers are used and how they are read; need not be fitted.
        train_data (Iterable): as for ``HRCAM.fit``; read once for each stage.
        options: passed to ``HRCAM.fit``. Give those of the first fit, and the solver that it chose:
            "auto" looks at the model's outputs, which are random here.

    Returns:
        Callable: for ``methods`` of :func:`randomization`.

    Raises:
        TypeError: ``hrcam`` is not an HRCAM; ``train_data`` can be read only once.
        ValueError: as :func:`head_kept`.

    Examples: see :func:`head_kept`.
    """
    _check_named(hrcam)
    if isinstance(train_data, Iterator):
        raise TypeError(
            f"train_data: got {type(train_data).__name__}, which can be read once, but each stage "
            "reads it. Pass a DataLoader or a list of batches."
        )

    def build(copy: nn.Module) -> HRCAM:
        anew = _on(copy, hrcam)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            anew.fit(train_data, **options)
        return anew

    return build


def _on(copy: nn.Module, hrcam: HRCAM) -> HRCAM:
    """Another HRCAM on the same layers of a copy of the model, without a head."""
    return type(hrcam)(
        copy,
        list(hrcam.layers),
        attribute_to_layer_input=hrcam.attribute_to_layer_input,
        reshape_transform=hrcam.reshape_transform,
    )


def _check_named(hrcam: HRCAM) -> None:
    if not isinstance(hrcam, HRCAM):
        raise TypeError(f"hrcam: got {type(hrcam).__name__}, expected an HRCAM.")
    if not isinstance(hrcam.forward_func, nn.Module):
        raise ValueError(
            "hrcam: built on a function around the model, so its layers cannot be found in a copy. "
            "Build it on the model itself."
        )
