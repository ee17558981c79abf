"""Maps of vision transformers against masks, beside gradient methods: which layers know where?

Trains a small ViT with a convolutional stem on the images of localization.py. HR-CAM gets all of
its layers. The peers are grad-cam's methods on every layer alone and on all blocks fused, of which
the best is taken in hindsight. Writes ``benchmarks/transformers.csv`` and a section of
``benchmarks/RESULTS.md``.
"""

import argparse
import functools
import warnings
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytorch_grad_cam as pgc
import torch
import torch.nn.functional as F
from images import KINDS, Images
from localization import COLUMNS, FOLDER, score
from networks import kept, shifted
from peers import FAMILIES, Attribute, gaussian, of_grad_cam
from results import table, write_section
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm.auto import tqdm

from captum_hrcam import HRCAM

CELLS = 16  # per side, of 4 x 4 pixels each
WIDTH, DEPTH = 64, 6
LAYERS = ["stem", *(f"blocks.{i}" for i in range(DEPTH))]
FITTED = 2000  # images for the head, of those that the model was trained on
OURS = {
    "default": {},
    "pattern of all layers": {"solver": "pattern"},
    "cascade of all layers": {"solver": "cascade"},
}


class ViT(nn.Module):
    """Two strided convolutions, then attention among patches and a class token that decides."""

    def __init__(self, channels: int, n_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, WIDTH // 2, 3, 2, 1), nn.BatchNorm2d(WIDTH // 2), nn.ReLU()
        )
        self.patches = nn.Conv2d(WIDTH // 2, WIDTH, 3, 2, 1)
        self.position = nn.Parameter(torch.randn(1, CELLS**2, WIDTH) * 0.02)
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                WIDTH, 4, 2 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(DEPTH)
        )
        self.norm, self.fc = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(self.stem(x)).flatten(2).transpose(1, 2) + self.position
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.fc(self.norm(x[:, 0]))


def grid(f: Tensor) -> Tensor:
    """Tokens (N, 1 + h w, C), without the class token, as maps (N, C, h, w); maps are unchanged."""
    return f[:, 1:].transpose(1, 2).unflatten(2, (CELLS, CELLS)) if f.ndim == 3 else f


def untrained(data: Images) -> ViT:
    return ViT(data.x.shape[1], int(data.y.max()) + 1)


def trained(data: Images, epochs: int, seed: int) -> ViT:
    torch.manual_seed(seed)
    model = untrained(data)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    steps = len(data.x) // 50
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * steps)
    for _ in tqdm(range(epochs), desc="training ViT"):
        for rows in torch.randperm(len(data.x)).split(50)[:steps]:
            loss = F.cross_entropy(model(shifted(data.x[rows])), data.y[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


def methods(model: nn.Module, data: Images) -> Iterator[tuple[str, str, Attribute]]:
    """Yield (method, configuration, f(images, targets)); print the default's report."""
    loader = DataLoader(TensorDataset(data.x[:FITTED], data.y[:FITTED]), batch_size=50)
    for name, options in OURS.items():
        hrcam = HRCAM(model, LAYERS, reshape_transform=grid)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # they are in the report
            report = hrcam.fit(loader, **options)
        if not options:
            print(report)
        yield "HR-CAM", name, functools.partial(_attribute, hrcam)
    yield "centred Gaussian", "no model", gaussian
    layers = {name: [model.get_submodule(name)] for name in LAYERS}
    layers["all blocks fused"] = list(model.blocks)
    for family, method in {"Grad-CAM": pgc.GradCAM, **FAMILIES}.items():
        for name, chosen in layers.items():
            run = functools.partial(of_grad_cam, method, model, chosen, reshape=grid)
            yield family, name, run


def _attribute(hrcam: HRCAM, x: Tensor, y: Tensor) -> Tensor:
    return hrcam.attribute(x, target=y)


def main() -> None:
    options = parse()
    rows = []
    for kind in options.kinds:
        for seed in range(options.seeds):
            data, tested = KINDS[kind](options.images, seed, False), KINDS[kind](60, seed, True)
            model = kept(
                options,
                f"{kind}-ViT-{seed}",
                functools.partial(untrained, data),
                functools.partial(trained, data, options.epochs, seed),
            )
            with torch.no_grad():
                accuracy = (model(tested.x).argmax(1) == tested.y).float().mean().item()
            about = {"kind": kind, "seed": seed, "accuracy": accuracy}
            for method, name, attribute in methods(model, data):
                found = score(attribute(tested.x, tested.y), tested.masks)
                rows.append(about | {"method": method, "configuration": name} | found)
            pd.DataFrame(rows).round(4).to_csv(options.csv, index=False)
    write_section(FOLDER / "RESULTS.md", "transformers", report(pd.DataFrame(rows), options))


def report(frame: pd.DataFrame, options: argparse.Namespace) -> str:
    """The section of RESULTS.md: means over seeds, for each peer those of its best layer for pixel
    AP."""
    by = ["kind", "method", "configuration"]
    means = frame.groupby(by, sort=False)[["accuracy", *COLUMNS]].mean().reset_index()
    ours = means["method"] == "HR-CAM"
    best = means.loc[means[~ours].groupby(["kind", "method"], sort=False)["pixel AP"].idxmax()]
    rows = []
    for kind in options.kinds:
        for part in (means[ours], best):
            for _, row in part[part["kind"] == kind].iterrows():
                figures = [f"{row[c]:.3f}" for c in COLUMNS]
                rows.append([kind, f"{row['accuracy']:.2f}", *row[by[1:]], *figures])
    return "\n\n".join(
        [
            "## Transformers",
            f"`python benchmarks/transformers.py`: ViTs of {DEPTH} blocks, {options.seeds} for "
            f"each kind of images, trained on {options.images}; maps of 60 scored as in "
            "Localisation. HR-CAM is given the stem and all blocks, and its maps are sums. Of each "
            "peer the layer best for pixel AP on these masks; all figures in "
            f"`benchmarks/{options.csv.name}`.",
            table(["images", "accuracy", "method", "configuration", *COLUMNS], rows),
        ]
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["lesions", "gratings"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--keep", type=Path, help="folder for the trained networks")
    parser.add_argument("--csv", type=Path, default=FOLDER / "transformers.csv")
    return parser.parse_args()


if __name__ == "__main__":
    main()
