"""The gallery's order, and its figures, which the package makes outside pyplot."""

from typing import Any
from weakref import WeakSet

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

ORDER = [
    *("quickstart", "layers", "heads", "classes", "completeness", "without_labels", "captum"),
    *("transformer", "signal", "volume", "letter_markers"),
]
saved: WeakSet[Figure] = WeakSet()


def place(filename: str) -> int:
    """Of an example in the gallery: from the first map to its limits."""
    return ORDER.index(filename.removeprefix("plot_").removesuffix(".py"))


def save_figures(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Save the figures that a block of an example has named, or ends with, and show them."""
    values = list(block_vars["example_globals"].values())
    made = dict.fromkeys(v for v in values if isinstance(v, Figure) and v not in saved)
    ours = [figure for figure in made if not hasattr(figure, "number")]  # pyplot's have one
    paths = []
    for figure, path in zip(ours, block_vars["image_path_iterator"], strict=False):
        figure.savefig(path, dpi=150)
        saved.add(figure)
        paths.append(path)
    return figure_rst(paths, gallery_conf["src_dir"])
