"""Writes RESULTS.md, in which each benchmark owns the section between its marks."""

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path


def _git(*command: str) -> str:
    """What git prints; nothing where there is no git, or no repository."""
    root = Path(__file__).parents[1]
    try:
        done = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


# Taken when a benchmark starts: the working tree may move on while it runs.
COMMIT = _git("rev-parse", "--short", "HEAD") or "unknown"
CHANGED = _git("status", "--porcelain", "--", "captum_hrcam", "benchmarks/*.py")


def write_section(path: Path, name: str, text: str) -> None:
    """Replace the section ``name`` by ``text`` and the commit, or append it at the end.

    Args:
        path: the Markdown file, created if missing.
        name: the section's name, in an HTML comment before and after it.
        text: the section's new content.
    """
    mark = f"<!-- {name} -->"
    before = path.read_text() if path.exists() else "# Measured\n\n"
    commit = f"Measured at commit {COMMIT}{', with changes' if CHANGED else ''}."
    written = f"{mark}\n{text.strip()}\n\n{commit}\n{mark}\n"
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
