"""What the layers' maps say of each other: which layers count in a cascade's sum, and how much.

The weight of a layer is its confirmation (its map's correlation with what all deeper layers say)
times its fineness, a rank counted from the deepest, or the root or square of this product (see
``layer_counts``). So a fine layer that the deeper ones do not confirm counts less. Layers do not
count at all if the deeper ones hardly confirm them, as in textures (see ``grain``), or if they mark
edges everywhere (see ``edges``). The others then count by confirmation alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from captum_hrcam import edges
from captum_hrcam.asking import Asking
from captum_hrcam.cells import LEAST, CellMoments, MapMoments, pool
from captum_hrcam.few_images import FewImages, maps_of
from captum_hrcam.fusion import agree, upsample
from captum_hrcam.grain import Sizes, without_grain


class Confirmed(NamedTuple):
    """How well the deeper layers confirm each layer, by name, shallow to deep; the moments of all
    layers' maps and the fused map."""

    confirmed: dict[str, float]
    moments: MapMoments


def confirm(few: FewImages, head: Mapping[str, Tensor]) -> Confirmed:
    """Measure what the layers' maps of the few images say of each other. The last layer has no
    deeper ones; its confirmation is 1.

    Args:
        few: the images.
        head: layer name -> (K, C_l) weights, whose maps have unit deviation.
    """
    moments = [CellMoments(1, 1) for _ in range(len(head) - 1)]
    with_fused = MapMoments(len(head))
    for inputs, present in few.batches() if moments else ():
        maps = maps_of(few.features(inputs, head), present, head)
        for i, shallow in enumerate(moments):
            size = tuple(maps[i + 1].shape[2:])
            deeper = torch.stack([upsample(z, size) for z in maps[i + 1 :]]).sum(0)
            shallow.add(pool(maps[i], size), deeper)
        size = tuple(maps[0].shape[2:])
        with_fused.add([upsample(z, size) for z in maps], fused(maps, size))
    for shallow in moments:
        shallow.over_ranks()
    with_fused.over_ranks()
    found = [max(shallow.correlation, LEAST) for shallow in moments]
    confirmed = dict(zip(head, [*found, 1.0], strict=True))
    return Confirmed(confirmed, with_fused)


def kept(
    confirmed: Mapping[str, float],
    few: FewImages,
    head: Mapping[str, Tensor],
    sizes: Sizes,
    asking: Asking,
) -> tuple[list[str], list[str]]:
    """The layers that are not left out, shallow to deep, and lines for the report on why.

    Args:
        confirmed: layer name -> confirmation, shallow to deep.
        few: the images.
        head: layer name -> (K, C_l) weights, whose maps have unit deviation.
        sizes: layer name -> spatial size of these layers.
        asking: asks the frozen model about the finest layer.
    """
    names = list(confirmed)
    layers, why = without_grain({name: confirmed[name] for name in names[:-1]}, sizes)
    if layers != names or len(names) == 1:
        return layers, [why]
    layers, more = edges.without_edges(*edges.ask(few, head, sizes, asking), sizes)
    return layers, [why, more]


def fused(maps: Sequence[Tensor], size: tuple[int, ...]) -> Tensor:
    """The harmonic mean of the layers' maps (n, 1, *cells), shallow to deep, at this size; each
    counts by the root of its fineness."""
    counts = [fine**0.5 for fine in fineness(tuple(z.shape[2:]) for z in maps)]
    return agree(list(maps), counts, size)


def fineness(resolutions: Iterable[tuple[int, ...]]) -> list[float]:
    """Each layer's fineness, shallow to deep: the rank of its resolution, counted from the deepest.
    Layers of one resolution share it, so that more of them make no map finer.

    Examples::

        >>> fineness([(64, 64), (32, 32), (16, 16)])
        [3.0, 2.0, 1.0]
        >>> fineness([(64, 64), (32, 32), (32, 32)])
        [2.0, 0.5, 0.5]
    """
    counts = [len(list(same)) for _, same in groupby(resolutions)]
    return [(len(counts) - i) / count for i, count in enumerate(counts) for _ in range(count)]
