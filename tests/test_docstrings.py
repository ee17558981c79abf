"""Every public name says what it takes, gives, refuses, and shows itself at work."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

import captum_hrcam
from captum_hrcam import checks, datasets, evaluation, faithfulness, metrics, visualize

PACKAGES = (captum_hrcam, metrics, datasets, visualize, evaluation, faithfulness)
CHECKS = {name for name, f in vars(checks).items() if inspect.isfunction(f)}
HEADER = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Examples)[^:\n]*:+", re.MULTILINE)
ENTRY = re.compile(r"^    ([\w*\\]+(?:, [\w*\\]+)*)(?: \(.*?\))?:", re.MULTILINE)


def exported() -> Iterator[tuple[str, Any]]:
    """Functions and classes of every ``__all__``."""
    for package in PACKAGES:
        for name in package.__all__:
            value = getattr(package, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                yield f"{value.__module__}.{value.__qualname__}", value


def bases(documented: Any) -> list[type]:
    """The classes of the package that a class is made of."""
    known = documented.__mro__ if inspect.isclass(documented) else ()
    return [base for base in known if base.__module__.startswith("captum_hrcam")]


def members(name: str, owner: type) -> Iterator[tuple[str, Any]]:
    """A class's public methods and properties, of the package's own bases too."""
    for member in {m for base in bases(owner) for m in vars(base) if not m.startswith("_")}:
        value = inspect.getattr_static(owner, member)
        value = getattr(value, "__func__", value)  # of a classmethod
        if inspect.isfunction(value) or isinstance(value, property):
            yield f"{name}.{member}", value


EXPORTED = dict(exported())
MEMBERS = {
    name: value
    for owner, cls in EXPORTED.items()
    if inspect.isclass(cls)
    for name, value in members(owner, cls)
}


def sections(documented: Any) -> dict[str, str]:
    """{header: text} of a docstring, "" for what comes before the first."""
    text = inspect.cleandoc(documented.__doc__ or "")
    parts = HEADER.split(text)
    return {"": parts[0].strip(), **dict(zip(parts[1::2], parts[2::2], strict=True))}


def entries(documented: Any) -> set[str]:
    """The names under Args and Attributes."""
    said = sections(documented)
    listed = ENTRY.findall(said.get("Args", "") + said.get("Attributes", ""))
    return {name.strip("*\\") for names in listed for name in names.split(", ")}


def parameters(documented: Any) -> list[str]:
    if isinstance(documented, property):
        return []
    names = list(inspect.signature(documented).parameters)
    return [name for name in names if name not in ("self", "cls")]


def bodies(documented: Any) -> list[ast.AST]:
    """The code that refuses bad input; of a class, what runs when one is made."""
    function = documented.fget if isinstance(documented, property) else documented
    [tree] = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function)))).body
    if isinstance(tree, ast.ClassDef):
        made = ("__init__", "__post_init__")
        return [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in made]
    return [tree]


def refuses(documented: Any) -> bool:
    """Whether it raises itself, or calls one of the package's checks."""
    nodes = [node for body in bodies(documented) for node in ast.walk(body)]
    called = {
        node.func.id
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    return any(isinstance(node, ast.Raise) for node in nodes) or bool(called & CHECKS)


def missing(documented: Any) -> list[str]:
    """What its docstring lacks."""
    said, wanted = sections(documented), parameters(documented)
    lacks = [] if said[""] else ["a first line"]
    named = {name for base in (documented, *bases(documented)) for name in entries(base)}
    lacks += [f"Args: {name}" for name in wanted if name not in named]
    # Without parameters the first line says what it returns, as a property's does.
    gives = wanted and not inspect.isclass(documented)
    if gives and inspect.signature(documented).return_annotation not in (None, "None"):
        lacks += [] if {"Returns", "Yields"} & said.keys() else ["Returns"]
    if refuses(documented) and "Raises" not in said:
        lacks.append("Raises")
    return lacks


@pytest.mark.parametrize("name", sorted(EXPORTED | MEMBERS))
def test_docstring_is_whole(name):
    lacks = missing((EXPORTED | MEMBERS)[name])
    if name in EXPORTED and "Examples" not in sections(EXPORTED[name]):
        lacks.append("Examples")
    assert not lacks, f"{name} lacks {', '.join(lacks)}"


@pytest.mark.parametrize("name", sorted(EXPORTED | MEMBERS))
def test_docstring_is_drawn_as_it_is_meant(name):
    """Napoleon takes all of several attributes but the last for a type, and two italics for one."""
    said = sections((EXPORTED | MEMBERS)[name])
    assert not [names for names in ENTRY.findall(said.get("Attributes", "")) if "," in names]
    assert not re.match(r"\s*\*[^*\n]+\* or \*", said.get("Returns", ""))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_name_of_a_package_is_there_and_the_package_says_what_it_is(package):
    assert package.__doc__
    assert all(hasattr(package, name) for name in package.__all__)


def test_a_poor_docstring_is_found():
    def poor(a: int, b: int) -> int:
        """Adds.

        Args:
            a: one.
        """
        checks.whole("a", a, 1)
        if b < 0:
            raise ValueError("b")
        return a + b

    assert missing(poor) == ["Args: b", "Returns", "Raises"]
