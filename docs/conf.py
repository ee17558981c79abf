"""Sphinx: warnings are errors (`make docs`); without a network it builds without links out."""

import sys
import urllib.request
import warnings
from pathlib import Path

from captum_hrcam import __version__

sys.path.insert(0, str(Path(__file__).parent))  # for gallery_pages.py

project = "captum-hrcam"
author = project_copyright = "The captum-hrcam contributors"
release = __version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # MathJax comes along: equations without a network
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
    "myst_parser",  # for CHANGELOG.md
]
html_theme = "furo"
html_title = f"captum-hrcam {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
exclude_patterns = ["_build"]

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True  # names instead of arrays of a hundred numbers
maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"
bibtex_reference_style = "author_year"
copybutton_prompt_text = "$ "
copybutton_line_continuation_character = "\\"

INVENTORIES = {
    "python": "https://docs.python.org/3/",
    "torch": "https://docs.pytorch.org/docs/stable/",
    "captum": "https://captum.ai/api/",
    "numpy": "https://numpy.org/doc/stable/",
    "matplotlib": "https://matplotlib.org/stable/",
}


# Of the gallery's scripts: they print reports, which say what was warned of.
warnings.filterwarnings("ignore", category=UserWarning, module="__main__")


def is_there(url: str) -> bool:
    """Whether an inventory can be had: Sphinx warns of one that cannot, which is an error here."""
    try:
        with urllib.request.urlopen(f"{url}objects.inv", timeout=5) as file:
            return file.readline().startswith(b"# Sphinx inventory")
    except OSError:
        return False


intersphinx_mapping = {name: (url, None) for name, url in INVENTORIES.items() if is_there(url)}
intersphinx_timeout = 10

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": "plot_",
    "ignore_pattern": r"reproduce_paper\.py|fit_on_many\.py|small_cnn\.py|__init__\.py",
    "image_scrapers": ("matplotlib", "gallery_pages.save_figures"),
    "within_subsection_order": "gallery_pages.place",
    "capture_repr": (),  # examples print what is worth reading
    "remove_config_comments": True,
    "download_all_examples": False,
    "show_memory": False,
}
