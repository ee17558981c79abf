"""Writes RESULTS.md, in which each benchmark owns the section between its marks."""

from collections.abc import Iterable, Sequence
from pathlib import Path


def write_section(path: Path, name: str, text: str) -> None:
    """Replace the section ``name`` by ``text``, or append it at the end.

    Args:
        path: the Markdown file, created if missing.
        name: the section's name, in an HTML comment before and after it.
        text: the section's new content.
    """
    mark = f"<!-- {name} -->"
    before = path.read_text() if path.exists() else "# Measured\n\n"
    written = f"{mark}\n{text.strip()}\n{mark}\n"
    parts = before.split(mark)
    if len(parts) == 3:
        after = parts[2].lstrip("\n")
        path.write_text(parts[0] + written + (f"\n{after}" if after else ""))
    else:
        path.write_text(before.rstrip("\n") + "\n\n" + written)


def verdict(ratio: float, limit: float | None) -> list[str]:
    """The cells "at most" and "met", which are empty without a limit."""
    return ["", ""] if limit is None else [f"{limit:.2f}", "yes" if ratio <= limit else "no"]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the cells are strings."""
    head, *lines = (f"| {' | '.join(cells)} |" for cells in (columns, *rows))
    return "\n".join([head, "|---" * len(columns) + "|", *lines])
