"""Real images with masks that people drew: tumours in the brain and the breast.

Nothing is downloaded. Put the data sets' folders, as published, into ``benchmarks/data/``:

- ``kaggle_3m``: MR slices of 110 patients with a lower-grade glioma
  (Buda et al. 2019, https://www.kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation);
- ``Dataset_BUSI_with_GT``: ultrasound of normal breasts, benign and malignant tumours
  (Al-Dhabyani et al. 2020, https://scholar.cu.edu.eg/?q=afahmy/pages/dataset).
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from images import Images
from PIL import Image
from torch import Tensor

DATA = Path(__file__).parent / "data"
SIZE = 96  # pixels per side, to which all images are scaled
HELD_OUT = 0.3  # share of the patients or images that is kept for the tests


class Item(NamedTuple):
    """An image, the masks to be united, its label, and its group, such as the patient: the images
    of a group are all for training or all for tests."""

    image: Path
    masks: list[Path]
    label: int
    group: str


def brain(folder: Path) -> Iterable[Item]:
    """Slices with a tumour (1) and without (0)."""
    for mask in sorted(folder.glob("TCGA_*/*_mask.tif")):
        image = mask.with_name(mask.name.replace("_mask", ""))
        yield Item(image, [mask], int(Image.open(mask).getextrema()[1] > 0), mask.parent.name)


def breast(folder: Path) -> Iterable[Item]:
    """Ultrasound images: normal (0), benign (1), malignant (2)."""
    for label, name in enumerate(("normal", "benign", "malignant")):
        for image in sorted(folder.glob(f"{name}/{name} (*).png")):
            if "_mask" not in image.name:
                masks = sorted(folder.glob(f"{name}/{image.stem}_mask*.png"))
                yield Item(image, masks, label, image.stem)


# Each kind's items, folder and colours.
SETS: dict[str, tuple[Callable[[Path], Iterable[Item]], str, str]] = {
    "brain tumours": (brain, "kaggle_3m", "RGB"),
    "breast tumours": (breast, "Dataset_BUSI_with_GT", "L"),
}


def real(kind: str, n: int, seed: int, test: bool, data: Path = DATA) -> Images:
    """At most n images of a kind; for the tests only images with a mask.

    Args:
        seed: determines which patients are held out for the tests.

    Raises:
        FileNotFoundError: the data set is not there.
    """
    read, name, mode = SETS[kind]
    items = list(read(data / name))
    if not items:
        raise FileNotFoundError(
            f"{data / name}: no images of {kind!r} there. Put the data set's folder, as published, "
            "into benchmarks/data/; benchmarks/real.py says where it comes from."
        )
    rng = np.random.default_rng(seed)
    groups = rng.permutation(sorted({item.group for item in items}))
    held_out = set(groups[: round(HELD_OUT * len(groups))])
    items = [item for item in items if (item.group in held_out) == test]
    x, y, masks = [], [], []
    for i in rng.permutation(len(items)):
        mask = _mask(items[i].masks)
        if mask.any() or not test:
            x.append(_scaled(items[i].image, mode))
            y.append(items[i].label)
            masks.append(mask)
        if len(x) == n:
            break
    return Images(torch.stack(x), torch.tensor(y), torch.stack(masks))


def _scaled(path: Path, mode: str) -> Tensor:
    """The image (C, SIZE, SIZE), 0 to 1."""
    image = Image.open(path).convert(mode).resize((SIZE, SIZE), Image.Resampling.BOX)
    pixels = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy(pixels.reshape(SIZE, SIZE, -1)).permute(2, 0, 1)


def _mask(paths: list[Path]) -> Tensor:
    """The union of the masks (SIZE, SIZE): pixels of which any mask covers at least half."""
    return torch.stack([_scaled(path, "L")[0] >= 0.5 for path in paths]).any(0)
