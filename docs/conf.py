"""Sphinx: warnings are errors (`make docs`), nothing is fetched."""

from captum_hrcam import __version__

project = "captum-hrcam"
author = "The captum-hrcam contributors"
release = __version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
html_theme = "furo"
exclude_patterns = ["_build"]
autodoc_typehints = "none"  # the docstrings' Args say it, as Captum's do
autodoc_inherit_docstrings = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": "plot_",
    "ignore_pattern": r"reproduce_paper\.py|__init__\.py",
    "download_all_examples": False,
    "show_memory": False,
}
