"""Several splits of one data set: what was held out in each, and the scores over all."""

import json
from pathlib import Path

import numpy as np

from paper.experiment import Split


def write_folds(found: list[dict], out: Path, ran: dict) -> None:
    """metrics.json of a cross-validation: all folds, mean and standard deviation over them."""
    spread: dict[str, dict] = {"mean": {}, "sd": {}}
    for name in ("model", "head", "paper_head"):
        numbers = [k for k, v in found[0][name].items() if isinstance(v, float)]
        table = np.array([[fold[name][k] for k in numbers] for fold in found])
        spread["mean"][name] = dict(zip(numbers, table.mean(0).tolist(), strict=True))
        spread["sd"][name] = dict(zip(numbers, table.std(0, ddof=1).tolist(), strict=True))
    folds = [{k: v for k, v in fold.items() if k not in ran} for fold in found]
    text = json.dumps({**spread, "folds": folds, **ran}, indent=2)
    (out / "metrics.json").write_text(text + "\n")


def keep_subjects(splits: list[Split], out: Path) -> None:
    """folds.json; refused where an earlier run in ``out`` held out others.

    Its checkpoints would go on here, with today's test subjects among those they were trained on.
    """
    folds = [split.subjects for split in splits]
    path = out / "folds.json"
    if path.exists() and json.loads(path.read_text()) != folds:
        raise SystemExit(
            f"--out: {path} is of a run on other subjects or another number of --folds, whose "
            "checkpoints have seen some of the subjects to be tested now. Name another --out."
        )
    path.write_text(json.dumps(folds, indent=2) + "\n")
