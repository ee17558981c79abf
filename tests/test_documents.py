"""What is not executed rots: README's snippets and the quickstart run, links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]


def test_readme_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert snippets
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), names)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_documents_name_are_there(path):
    text = path.read_text()
    linked = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    commands = re.findall(r"(?:`|^    )make ([a-z-]+)", text, re.MULTILINE)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert all((ROOT / name).exists() for name in linked), linked
    assert set(commands) <= set(targets), commands


def test_make_alone_lists_the_commands():
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("demo", "test", "lint", "docs", "bench", "dist"):
        assert f"make {target} " in listed


def test_quickstart_runs_and_writes_its_figure(tmp_path):
    command = [sys.executable, "examples/plot_quickstart.py", "--images", "100", "--size", "32"]
    command += ["--epochs", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for expected in ("pixel AP", "sens 0.3", "HR-CAM, agreement", "AUROC", "stage4"):
        assert expected in done.stdout
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
