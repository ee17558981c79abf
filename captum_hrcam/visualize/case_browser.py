"""Cases in one HTML file, to page through in a browser."""

import base64
import hashlib
import html
import json
import os
from collections.abc import Sequence
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
from matplotlib import colormaps

from captum_hrcam.files import in_a_folder, written_whole
from captum_hrcam.visualize.cases import Case
from captum_hrcam.visualize.packed_case import LEVELS, largest, packed
from captum_hrcam.visualize.panels import DIVERGING, in_unit_range, one_for_each, to_numpy


def case_browser(
    cases: Sequence[Case],
    path: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    target: int = 0,
    title: str = "Cases",
) -> None:
    r"""
    Write one HTML file for paging through images and their maps, without network or server.

    The page shows each image beside HR-CAM and the other methods, for one class at a time. Each
    method has one scale for all cases, set by the largest value in any of them, so that a healthy
    image's map is seen to be faint; the reader can switch to one scale for each case. Values below
    a threshold, a share of the scale, are not drawn. Layers can be switched off and on; those that
    remain are added up again.

    Scales are centred at zero, the value that adds nothing to the class's score: red raises the
    score, blue lowers it. The score itself is the map's mean plus the bias, which has no place in
    the image. So all tissue may be red although no image shows the class: the bias takes the usual
    level of red away again. Spreading the bias over the pixels would not help, as it would turn the
    air around the tissue blue.

    Images are stored in 8 bits, grey ones without loss, coloured ones as JPEG; if all lie in 0..1
    they are shown as they are, otherwise each is scaled by itself. Maps are stored for viewing
    only: in 8 bits between their minimum and maximum, and averaged to at most 112 cells a side.
    200 images of 224 pixels with five layers and two other methods take less than 40 MB for four
    classes.

    Args:
        cases (sequence of Case): with the same layers, methods and number of classes. See
            :func:`~captum_hrcam.visualize.collect_cases`.
        path (str or PathLike): the file, which is written whole or not at all.
        classes (sequence of str): names of the K classes.
        target (int): the class shown first.
        title (str): the page's title.

    Raises:
        FileNotFoundError: no folder for ``path``.
        IndexError: a target that is none of the K classes.
        TypeError: something other than a Case among ``cases``.
        ValueError: no case; cases that differ in layers, methods or classes.

    Examples::

        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from captum_hrcam.visualize import Case
        >>> layer_maps = {"early": torch.randn(2, 16, 16), "late": torch.randn(2, 4, 4)}
        >>> cases = [Case(torch.rand(1, 32, 32), layer_maps, {"CAM": torch.randn(2, 4, 4)})]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     case_browser(cases, Path(folder) / "cases.html", classes=["normal", "lesion"])
        ...     [file.name for file in Path(folder).iterdir()]
        ['cases.html']
    """
    path = in_a_folder(path)
    k = _alike(cases)
    one_for_each("classes", classes, k, "classes")
    if target not in range(k):
        raise IndexError(f"target: got {target!r}, expected a class from 0 to {k - 1}.")

    names = list(classes) if classes is not None else [f"class {c}" for c in range(k)]
    page = _page(cases, names, int(target), title)
    with written_whole(path) as file:
        file.write(page.encode())


def _alike(cases: Sequence[Case]) -> int:
    """K, once it is checked that all cases have the same layers, methods and number of classes."""
    if not len(cases):
        raise ValueError("cases: got none, expected one or more. Use collect_cases.")
    first: tuple[list[str], list[str], int] | None = None
    for i, case in enumerate(cases):
        if not isinstance(case, Case):
            raise TypeError(f"cases[{i}]: got {type(case).__name__}, expected a Case.")
        has = (list(case.layer_maps), list(case.maps), case.n_classes)
        first = first or has
        if has != first:
            raise ValueError(
                f"cases[{i}]: got layers, methods and number of classes {has}, expected {first} as "
                "in the first. Collect all cases with the same layers, methods and targets."
            )
    return cases[0].n_classes


# ---- the page


def _page(cases: Sequence[Case], classes: Sequence[str], target: int, title: str) -> str:
    pictures = in_unit_range([to_numpy(case.image) for case in cases])
    of_cases = [largest(case, a.shape[1:]) for case, a in zip(cases, pictures, strict=True)]
    about = {
        "classes": classes,
        "layers": list(cases[0].layer_maps),
        "methods": list(cases[0].maps),
        "titles": [case.title for case in cases],
        "target": target,
        "largest": np.max(of_cases, axis=0).tolist(),  # of each method and class
        "colors": colormaps[DIVERGING](np.linspace(0, 1, LEVELS + 1), bytes=True)[:, :3].tolist(),
    }
    style = _asset("case_browser.css")
    script = _asset("case_maps.js") + _asset("case_browser.js")
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )
    return Template(_asset("case_browser.html")).substitute(
        policy=policy,
        title=html.escape(title),
        style=style,
        script=script,
        about=_json(about),
        # One element per case, so that the browser reads a case's text only when it is shown.
        cases="\n".join(
            f'<script type="application/json" class="case">{_json(packed(case, picture))}</script>'
            for case, picture in zip(cases, pictures, strict=True)
        ),
    )


def _asset(name: str) -> str:
    return files("captum_hrcam.visualize").joinpath(name).read_text("utf-8")


def _digest(text: str) -> str:
    """The hash by which the page's policy recognises its own script and style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(value: Any) -> str:
    """JSON for a script element, which only "</script" or "<!--" could end or confuse."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")
