"""One case in the small form that the browser's page reads, and its maps' largest values."""

import base64
import io
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from captum_hrcam.fusion import add_upsampled
from captum_hrcam.visualize.cases import Case
from captum_hrcam.visualize.panels import Array, ImageLike, to_numpy

MAP_SIDE = 112  # cells; more would hardly be seen at the size of a panel
LEVELS = 255  # of 8 bits
LARGEST = 512  # pixels a side that maps are drawn with at most, as in case_browser.js


def packed(case: Case, picture: Array) -> dict[str, Any]:
    """All that the page shows of a case. Layers' maps, methods' maps and mask are joined to one run
    of bytes, in this order."""
    of_layers = [_quantised(a) for a in case.layer_maps.values()]
    of_methods = [_quantised(a) for a in case.maps.values()]
    values = b"".join(levels.tobytes() for levels, _ in of_layers + of_methods)
    if case.mask is not None:
        values += np.packbits(to_numpy(case.mask) > 0).tobytes()
    # Neighbouring values differ little, and small numbers compress better.
    steps = np.diff(np.frombuffer(values, np.uint8), prepend=np.uint8(0))
    return {
        "image": _data_url(picture),
        "size": picture.shape[1:],
        "scores": None if case.scores is None else to_numpy(case.scores).tolist(),
        "bias": None if case.bias is None else to_numpy(case.bias).tolist(),
        "layers": [about for _, about in of_layers],
        "methods": [about for _, about in of_methods],
        "mask": case.mask is not None,
        "values": base64.b64encode(zlib.compress(steps.tobytes(), 9)).decode(),
    }


def largest(case: Case, size: Sequence[int]) -> Array:
    """The largest absolute value of HR-CAM and each other method, (methods, K), as it is drawn on
    an image of this size."""
    shrink = min(1, LARGEST / max(size))
    drawn = [max(1, round(side * shrink)) for side in size]
    methods = [[*case.layer_maps.values()], *([a] for a in case.maps.values())]
    maps = [add_upsampled([_reduced(a)[None] for a in summed], drawn)[0] for summed in methods]
    return np.stack([a.abs().amax((1, 2)) for a in maps])


def _reduced(maps: ImageLike) -> Tensor:
    """Maps (K, h, w), averaged to at most ``MAP_SIDE`` cells a side."""
    a = torch.from_numpy(to_numpy(maps))
    factor = -(-max(a.shape[1:]) // MAP_SIDE)
    if factor == 1:
        return a
    return F.interpolate(a[None], [-(-side // factor) for side in a.shape[1:]], mode="area")[0]


def _quantised(maps: ImageLike) -> tuple[Array, dict[str, Any]]:
    """(K, h, w) of bytes, and what turns them back into values."""
    a = _reduced(maps)
    low, high = a.amin((1, 2)), a.amax((1, 2))
    span = torch.where(high > low, high - low, 1)[:, None, None]
    levels = ((a - low[:, None, None]) / span * LEVELS).round().byte().numpy()
    return levels, {"size": a.shape[1:], "low": low.tolist(), "high": high.tolist()}


def _data_url(picture: Array) -> str:
    """A picture (C, H, W) in 0..1 as a data URL."""
    levels = np.moveaxis((picture * 255).round().astype(np.uint8), 0, 2)
    file = io.BytesIO()
    if levels.shape[2] == 1:
        kind = "png"
        Image.fromarray(levels[..., 0]).save(file, "PNG", optimize=True)
    else:
        kind = "jpeg"
        Image.fromarray(levels).save(file, "JPEG", quality=92, subsampling=0)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
