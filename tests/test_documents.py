"""What is not executed rots: snippets and the quickstart run, links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from conftest import fit_quietly
from layouts import write_isic, write_neuromelanin
from PIL import Image
from torchvision.models import ResNet, resnet18
from torchvision.models.resnet import BasicBlock

import captum_hrcam
from captum_hrcam import HRCAM, datasets, evaluation, faithfulness, find_layers, metrics, visualize

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
BLOCK = r"^\.\. code-block:: {}\n((?:   .*\n|\n)+)"
PAGES = [p for p in sorted(DOCS.glob("*.rst")) if "code-block:: python" in p.read_text()]


def snippets(path: Path) -> list[str]:
    """The Python of a page, in order."""
    if path.suffix == ".md":
        return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
    blocks = re.findall(BLOCK.format("python"), path.read_text(), re.MULTILINE)
    return [re.sub("^   ", "", block, flags=re.MULTILINE) for block in blocks]


def printed(path: Path) -> list[str]:
    """The lines that a page says its Python prints."""
    blocks = re.findall(BLOCK.format("text"), path.read_text(), re.MULTILINE)
    shown = [block for block in blocks if ":caption: prints" in block]
    lines = [line for block in shown for line in block.splitlines() if line.strip()]
    return [line for line in lines if ":caption:" not in line]


def without_figures(text: str) -> str:
    """Numbers masked, and what was chosen by them: they depend on the machine.

    The margins stand beside the head that was not chosen, here always the second.
    """
    text = re.sub(r"(?m)^ *(balance_layers|layers count) .*$", "", text)  # the one or the other
    text = re.sub(r"(?m)^ *(maps moved to where|no layer's map is moved).*$", "places", text)
    masked = re.sub(r"\s+|cascade|pattern", "", re.sub(r"-?\d[\d.]*", "#", text))
    return re.sub(r"(#and#)(\(margins[^)]*\));(#and#)", r"\1;\3\2", masked)


@pytest.fixture(scope="module")
def yours() -> dict[str, Any]:
    """What a reader has: a trained CNN, a loader, images; and the HRCAM fitted on the way."""
    torch.manual_seed(0)
    model = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=2).eval()  # ResNet-18's names, half of it
    images, labels = torch.randn(20, 3, 64, 64), torch.arange(20) % 2
    loader = list(zip(images.split(10), labels.split(10), strict=True))
    layers = find_layers(model, images[:1])
    hrcam = fit_quietly(HRCAM(model, layers), loader)
    return {
        "model": model,
        "train_loader": loader,
        "images": images[:4],
        "layers": layers,
        "hrcam": hrcam,
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a reader: photos in folders of classes, a checkpoint, scans, skin
    lesions with masks."""
    rng = np.random.default_rng(0)
    for part in ("train/healthy", "train/lesion", "val/healthy", "val/lesion"):
        (tmp_path / "photos" / part).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / part / f"{i}.png")
    torch.save(resnet18(num_classes=2).state_dict(), tmp_path / "my_model.pt")
    (tmp_path / "scans").mkdir()
    for i in range(12):
        affine = np.diag([-1.0, 1, 1, 1])  # to the left, as many files are
        scan = nibabel.Nifti1Image(rng.normal(size=(16, 24, 20)).astype(np.float32), affine)
        scan.to_filename(tmp_path / f"scans/{i:02d}.nii.gz")
    write_neuromelanin(tmp_path / "nm_mri")
    isic = write_isic(tmp_path / "ISIC_2019", lesions=4)
    (tmp_path / "ISIC_masks").symlink_to(isic / "ISIC2018_Task1_Training_GroundTruth")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore::UserWarning")  # heads of untrained networks
@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_snippets_run(page, yours, folder, capsys):
    names = dict(yours)
    for number, snippet in enumerate(snippets(page)):
        exec(compile(snippet, f"{page.name}, snippet {number}", "exec"), names)
    out = without_figures(capsys.readouterr().out)
    for line in printed(page):
        assert without_figures(line) in out, line


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_documents_name_are_there(path):
    text = path.read_text()
    linked = re.findall(r"\]\((?!http)([^)]+)\)", text)
    commands = re.findall(r"(?:`|^    )make ([a-z-]+)", text, re.MULTILINE)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for name, _, anchor in (link.partition("#") for link in linked):
        assert (ROOT / name).exists(), name
        assert not anchor or anchor in anchors(ROOT / name if name else path), anchor
    assert set(commands) <= set(targets), commands


def anchors(path: Path) -> set[str]:
    """Those that GitHub gives to the headings of a Markdown file."""
    headings = re.findall(r"^#+ (.*)", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_pages_name_commands_that_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page in DOCS.glob("*.rst"):
        commands = re.findall(r"``make ([a-z-]+)", page.read_text())
        assert set(commands) <= set(targets), page.name


def test_every_page_is_in_the_contents():
    contents = (DOCS / "index.rst").read_text() + (DOCS / "api.rst").read_text()
    listed = re.findall(r"^   ([a-z_]+)$", contents, re.MULTILINE)
    pages = {page.stem for page in DOCS.glob("*.rst")} - {"sg_execution_times"}  # the gallery's own
    assert sorted([*listed, "index"]) == sorted(pages)


def test_api_holds_every_public_name():
    text = "".join(page.read_text() for page in DOCS.glob("api_*.rst"))
    for module in (visualize, metrics, faithfulness, datasets):
        assert f".. automodule:: {module.__name__}\n   :members:\n   :imported-members:" in text
    listed = set(re.findall(r"^\.\. auto(?:class|function):: ([\w.]+)", text, re.MULTILINE))
    public = {name for name in captum_hrcam.__all__ if name != "metrics"}
    public |= {f"captum_hrcam.evaluation.{name}" for name in {*evaluation.__all__} - public}
    assert public <= listed


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("pyproject.toml", r'^version = "(.*)"$'),
        ("CITATION.cff", r"^version: (.*)$"),
        ("docs/cite.rst", r"^ *version = \{(.*)\},$"),
    ],
)
def test_one_version_everywhere(name, pattern):
    told = re.findall(pattern, (ROOT / name).read_text(), re.MULTILINE)
    assert told == [captum_hrcam.__version__]


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
