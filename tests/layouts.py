"""Tiny data sets in the exact layouts of the real ones, with something in them to learn."""

import csv
import doctest
import itertools
import os
from pathlib import Path

import numpy as np
from PIL import Image

ISIC_CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")


def write_isic(root: Path, lesions: int = 6, size: tuple[int, int] = (48, 36)) -> Path:
    """ISIC 2019's training data: ``lesions`` per class of one to three images each (12 at 6).

    The first lesions are "MSK" images: no lesion id, names with _downsampled, and a mask in
    ``root/ISIC2018_Task1_Training_GroundTruth`` drawn at twice the image's size. Each class has a
    colour of its own.
    """
    images = root / "ISIC_2019_Training_Input"
    masks = root / "ISIC2018_Task1_Training_GroundTruth"
    for folder in (images, masks):
        folder.mkdir(parents=True)
    for name in ("ATTRIBUTION.txt", "LICENSE.txt"):
        (images / name).write_text("as in the real folder\n")
        (masks / name).write_text("as in the real folder\n")
    truth, metadata, number = [], [], 0
    for label, lesion in itertools.product(range(8), range(lesions)):
        alone = lesion == 0
        for _ in range(1 if alone else 1 + lesion % 3):
            name = f"ISIC_{number:07d}" + ("_downsampled" if alone else "")
            spot = _isic_image(images / f"{name}.jpg", size, label, number)
            if alone:
                large = Image.fromarray(spot.astype(np.uint8) * 255).resize(
                    (2 * size[0], 2 * size[1]), Image.Resampling.NEAREST
                )
                large.save(masks / f"ISIC_{number:07d}_segmentation.png")
            truth.append([name, *(f"{float(k == label)}" for k in range(8)), "0.0"])
            source = "BCN" if lesion % 2 else "HAM"
            identity = "" if alone else f"{source}_{100 * label + lesion:07d}"
            metadata.append([name, "55.0", "anterior torso", identity, "female"])
            number += 1
    write_csv(root / "ISIC_2019_Training_GroundTruth.csv", ["image", *ISIC_CLASSES, "UNK"], truth)
    write_csv(
        root / "ISIC_2019_Training_Metadata.csv",
        ["image", "age_approx", "anatom_site_general", "lesion_id", "sex"],
        metadata,
    )
    return root


def _isic_image(path: Path, size: tuple[int, int], label: int, number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    width, height = size
    y, x = np.mgrid[:height, :width]
    centre = rng.uniform(0.35, 0.65, 2) * (height, width)
    spot = np.hypot(y - centre[0], x - centre[1]) < rng.uniform(0.15, 0.25) * height
    skin = np.array([220, 180, 160]) + rng.normal(0, 5, (height, width, 3))
    colour = np.array([(label & 1) * 120, (label & 2) * 60, (label & 4) * 30]) + 30
    skin[spot] = colour + rng.normal(0, 5, (spot.sum(), 3))
    Image.fromarray(skin.clip(0, 255).astype(np.uint8)).save(path, quality=95)
    return spot


def write_mura(
    parent: Path, patients: int = 4, types: tuple[str, ...] = ("XR_SHOULDER", "XR_WRIST")
) -> Path:
    """MURA-v1.1 inside ``parent``: ``patients`` per study type and split, odd ones abnormal.

    Each has a study of two images, of differing size and mode; abnormal ones hold a bright bar.
    A macOS junk file lies beside each image, as in some folders of the real set.
    """
    root, patient = parent / "MURA-v1.1", 0
    for split in ("train", "valid"):
        paths, studies = [], []
        for kind, k in itertools.product(types, range(patients)):
            patient += 1
            label = "positive" if k % 2 else "negative"
            study = f"MURA-v1.1/{split}/{kind}/patient{patient:05d}/study1_{label}/"
            (parent / study).mkdir(parents=True)
            studies.append([study, int(label == "positive")])
            for view in (1, 2):
                path = f"{study}image{view}.png"
                _radiograph(parent / path, abnormal=k % 2 == 1, number=2 * patient + view)
                (parent / study / f"._image{view}.png").write_bytes(b"\0\5\x16\7junk")
                paths.append([path])
        write_csv(root / f"{split}_image_paths.csv", None, paths)
        write_csv(root / f"{split}_labeled_studies.csv", None, studies)
    return root


def _radiograph(path: Path, abnormal: bool, number: int) -> None:
    rng = np.random.default_rng(number)
    height, width = 40 + 4 * (number % 3), 36
    image = rng.normal(60, 10, (height, width))
    image[:, 12:24] += 60
    if abnormal:
        row = rng.integers(8, height - 8)
        image[row - 3 : row + 3, 10:26] += 80
    gray = Image.fromarray(image.clip(0, 255).astype(np.uint8))
    (gray if number % 2 else gray.convert("RGB")).save(path)


def write_neuromelanin(
    root: Path, controls: int = 5, patients: int = 5, axes: tuple[str, ...] = ("LPS", "RAS", "SPL")
) -> Path:
    """A BIDS folder with ``sub-*/anat/sub-*_MTw.nii.gz``, stored in ``axes`` in turn.

    Slices are 28 columns x 32 rows x 8; two spots in the midbrain (slices 2..6) are bright in
    controls and faint in patients ("PD"), as in the substantia nigra.
    """
    rows = []
    for k in range(controls + patients):
        subject, group = f"sub-{k + 1:02d}", "PD" if k >= controls else "control"
        rows.append([subject, str(50 + k), group])
        path = root / subject / "anat" / f"{subject}_MTw.nii.gz"
        write_scan(path, midbrain(bright=group == "control", seed=k), axes[k % len(axes)])
    write_csv(root / "participants.tsv", ["participant_id", "age", "group"], rows, "\t")
    (root / "dataset_description.json").write_text('{"Name": "tiny", "BIDSVersion": "1.8.0"}')
    return root


def midbrain(bright: bool, seed: int) -> np.ndarray:
    """A volume (x, y, z) in RAS order, int16."""
    rng = np.random.default_rng(seed)
    x, y, z = np.mgrid[:28, :32, :8]
    volume = 400.0 * (np.hypot((x - 13.5) / 13, (y - 15.5) / 15) < 1)
    for centre in (9, 18):
        spot = np.hypot(x - centre, (y - 16) * 1.3) < 2.5
        volume += (300 if bright else 60) * spot * ((z >= 2) & (z < 6))
    return (volume + rng.normal(0, 20, volume.shape)).clip(0).astype(np.int16)


def oblique_affine() -> np.ndarray:
    """Voxels of 0.7 x 0.7 x 2.5 mm in RAS order, turned by 15 degrees, off the origin."""
    angle = np.deg2rad(15)
    turn = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.7, 0.7, 2.5])
    affine[:3, 3] = -9.0, -14.0, 21.0
    return affine


def write_scan(path: Path, volume: np.ndarray, axes: str) -> None:
    """The volume, given in RAS order, stored along ``axes``, where each voxel keeps its place."""
    import nibabel as nib

    path.parent.mkdir(parents=True, exist_ok=True)
    to_stored = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes)
    )
    ras = nib.Nifti1Image(volume, oblique_affine())
    ras.as_reoriented(to_stored).to_filename(path)


def write_csv(path: Path, header: list[str] | None, rows: list, delimiter: str = ",") -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(
            [header, *rows] if header else rows
        )


def truncate(path: Path, share: float = 0.5) -> None:
    """Cuts a file as an interrupted copy does."""
    os.truncate(path, int(path.stat().st_size * share))


def run_examples(documented: type, globs: dict) -> doctest.TestResults:
    """Runs a docstring's examples that need data, in the current folder, where the data are."""
    test = doctest.DocTestFinder(recurse=False).find(documented, globs=globs)[0]
    for example in test.examples:
        example.options.pop(doctest.SKIP, None)
    return doctest.DocTestRunner().run(test)
