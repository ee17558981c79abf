"""Several splits of one data set: what was held out in each, and the scores over all."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from paper.outcome import Outcome
from paper.pictures import Split
from paper.scores import scores


def over_folds(outcomes: list[Outcome], classes: list[str]) -> dict:
    """The scores of all held-out predictions together, their mean and deviation over folds, and
    the metrics of each fold."""
    probability = {
        name: np.concatenate([fold.probability[name] for fold in outcomes])
        for name in outcomes[0].probability
    }
    pooled = scores(probability, np.concatenate([fold.y for fold in outcomes]), classes)

    def spread(of: Callable[[list[float]], float], fewest: int) -> dict[str, dict]:
        """Each figure over the folds where it is defined; None if these are too few."""
        found: dict[str, dict] = {}
        for name in probability:
            for figure in pooled[name]:
                values = [fold.metrics[name][figure] for fold in outcomes]
                values = [v for v in values if v is not None]
                known = of(values) if len(values) >= fewest else None
                found.setdefault(name, {})[figure] = known
        return found

    return {
        "pooled": pooled,
        "mean": spread(np.mean, 1),
        "sd": spread(lambda values: np.std(values, ddof=1), 2),
        "folds": [fold.metrics for fold in outcomes],
    }


def keep_subjects(splits: list[Split], out: Path) -> None:
    """Write folds.json; refuse to if an earlier run in ``out`` held out other subjects.

    This run would continue from its checkpoints, which were trained on some of the subjects to be
    tested now.
    """
    folds = [split.subjects for split in splits]
    path = out / "folds.json"
    if path.exists() and json.loads(path.read_text()) != folds:
        raise SystemExit(
            f"--out: {path} is of a run on other subjects or another number of --folds, whose "
            "checkpoints have seen some of the subjects to be tested now. Name another --out."
        )
    path.write_text(json.dumps(folds, indent=2) + "\n")
