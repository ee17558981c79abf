"""The file list is the architecture: imports point one way, and the wheel needs no extra."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import captum_hrcam

PACKAGE = Path(captum_hrcam.__file__).parent
# From the bottom to the top; a module imports from the groups before its own, or from its own.
ORDER = [
    {
        "_captum",
        "activations",
        "batch",
        "checks",
        "files",
        "grain",
        "group",
        "modes",
        "pooling",
    },
    {
        "cells",
        "discrimination",
        "features",
        "fingerprint",
        "framing",
        "fusion",
        "head",
        "labels",
        "layers",
        "moments",
        "optimise",
        "perturbation",
        "placing",
        "recipe",
        "spread",
        "tracing",
    },
    {"asking", "cache", "calibration", "few_images", "rows"},
    {
        "choosing",
        "edges",
        "finding",
        "fit_report",
        "frozen_pass",
        "head_and_model",
        "levels",
        "report",
        "solvers",
        "storage",
    },
    {"attribution", "cascade", "confirming", "fitting", "layer_counts", "settling"},
    {"fewer_layers", "reading", "revisit"},
    {"cam", "hrcam"},
    {"compare", "visualize"},
    {"evaluation", "faithfulness"},
]
ALONE = {"datasets", "metrics"}
EXTRAS = {"sklearn", "scipy", "pandas", "nibabel"}


def imported(path: Path) -> set[str]:
    """Modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own(path: Path) -> set[str]:
    """The package's modules that a file imports: "head" of captum_hrcam.head.Head."""
    parts = [name.split(".") for name in imported(path)]
    return {p[1] for p in parts if p[0] == "captum_hrcam" and len(p) > 1}


def files_of(module: str) -> list[Path]:
    """A module's file, or all files of its folder."""
    file = PACKAGE / f"{module}.py"
    return [file] if file.exists() else sorted((PACKAGE / module).glob("*.py"))


def test_every_module_has_its_place():
    files = {p.stem for p in PACKAGE.glob("*.py")} - {"__init__"}
    folders = {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    assert files | folders == set().union(*ORDER) | ALONE


@pytest.mark.parametrize("level", range(len(ORDER)))
def test_imports_point_down(level):
    below = set().union(*ORDER[: level + 1])
    for module in ORDER[level]:
        for path in files_of(module):
            modules = own(path) & set().union(*ORDER)
            assert modules <= below, f"{path} imports {modules - below}"


def test_no_file_imports_itself_by_way_of_others():
    files = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        files[".".join(parts)] = imported(path)
    TopologicalSorter({name: files.keys() & found for name, found in files.items()}).prepare()


@pytest.mark.parametrize("folder", sorted(ALONE))
def test_datasets_and_metrics_know_nothing_of_hrcam(folder):
    for path in (PACKAGE / folder).glob("*.py"):
        assert own(path) <= {folder}, path


def test_hooks_are_registered_in_one_file():
    users = {p.name for p in PACKAGE.rglob("*.py") if "register_forward" in p.read_text()}
    assert users == {"activations.py"}


def test_import_needs_no_extra():
    block = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in sorted(EXTRAS))
    code = block + (
        "from captum_hrcam import HRCAM, CAM, compare, find_layers, metrics, datasets, visualize\n"
        "metrics.sensitivity([[0.0, 1.0]], [[0, 1]], 0.5)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_extra_says_what_to_install():
    code = (
        "import sys\nsys.modules['sklearn'] = None\nfrom captum_hrcam import metrics\n"
        "metrics.pixel_average_precision([[0.0, 1.0]], [[0, 1]])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'pip install "captum-hrcam[eval]"' in done.stderr
