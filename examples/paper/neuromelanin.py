"""Neuromelanin-sensitive MRI, with or without Parkinson's disease: the paper's Figs. 5 and 6C."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from sklearn.model_selection import StratifiedKFold
from tqdm.auto import tqdm

from captum_hrcam.datasets import NeuromelaninMRI
from paper.options import at_least
from paper.pictures import Pictures, Split, apart, to_pixels
from paper.training import rank

POSITIVES, OTHERS = 4, 2  # subjects drawn, over all folds


def add_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    default = "default %(default)s"
    held_out = f"of subjects; 1 holds out 30 %% once; {default}"
    add("--folds", metavar="N", type=at_least(1), default=1, help=held_out)
    copies = f"augmented copies of a slice in an epoch; {default}"
    add("--times", metavar="N", type=at_least(1), default=10, help=copies)
    add("--slices", type=int, nargs=2, metavar=("START", "STOP"), help="by default all")
    add(
        "--box",
        type=int,
        nargs=4,
        metavar=("Y0", "Y1", "X0", "X1"),
        help="rows and columns around the brain stem; by default whole slices",
    )
    add("--group-column", metavar="NAME", default="group", help=f"of participants.tsv; {default}")
    add("--positive", metavar="GROUP", default="PD", help=f"the group of patients; {default}")
    add(
        "--suffix", metavar="NAME", help="BIDS suffix of the scans, as MTw, where there are several"
    )


def splits(options: Namespace) -> list[Split]:
    """The data set's own split by subject, or one for each fold."""
    if options.folds > 1 and options.checkpoint:
        raise ValueError(
            f"--checkpoint: got {options.checkpoint} for {options.folds} folds, which have one "
            "each, in --out. Leave it out."
        )
    if options.folds == 1:
        sides = [read(options, side) for side in ("train", "test")]
        return [split(options, *((data, range(len(data))) for data in sides))]
    data = read(options, "all")
    folds = by_subject(data.subjects, data.targets, options.folds)
    return [
        split(options, (data, train), (data, test), fold)
        for fold, (train, test) in enumerate(folds)
    ]


def read(options: Namespace, side: str) -> NeuromelaninMRI:
    """One side of the data set, in the box and the range of slices that were asked for.

    Each scan is read once here, so that a damaged one is refused before any training, and forked
    worker processes find the slices in memory.
    """
    data = NeuromelaninMRI(
        options.root,
        side,
        group_column=options.group_column,
        positive=options.positive,
        suffix=options.suffix,
        slices=options.slices and tuple(options.slices),
        box=options.box and tuple(options.box),
    )
    one_of_each = {path: i for i, path in enumerate(data.paths)}.values()
    for i in tqdm(one_of_each, desc="reading scans", disable=rank() > 0):
        data[i]
    return data


def by_subject(
    subjects: Sequence[str], targets: Sequence[int], folds: int, seed: int = 0
) -> list[tuple[list[int], list[int]]]:
    """The items of each fold, (to train on, left out): whole subjects, stratified by group."""
    group = dict(zip(subjects, targets, strict=True))
    names = sorted(group)
    labels = [group[name] for name in names]
    fewest = min(labels.count(label) for label in set(labels))
    if folds > fewest:
        raise ValueError(
            f"--folds: got {folds}, but the smaller group has {fewest} subjects; expected at most "
            "as many, so that each fold is tested on both groups."
        )
    found = []
    for _, left_out in StratifiedKFold(folds, shuffle=True, random_state=seed).split(names, labels):
        out = {names[i] for i in left_out}
        found.append(
            (
                [i for i, name in enumerate(subjects) if name not in out],
                [i for i, name in enumerate(subjects) if name in out],
            )
        )
    return found


def split(
    options: Namespace,
    train: tuple[NeuromelaninMRI, Sequence[int]],
    test: tuple[NeuromelaninMRI, Sequence[int]],
    fold: int = 0,
) -> Split:
    """A split from the (data, items) of each side; the subjects to draw are shared among folds."""
    size, (data, items) = options.image_size, test
    patients, others = (len(range(fold, n, options.folds)) for n in (POSITIVES, OTHERS))
    shown = middle_slices(data, items, patients, others)
    cases = [
        (i, data.targets[items[i]], f"{data.subjects[items[i]]}, slice {data.levels[items[i]]}")
        for i in shown
    ]
    sides = {"train": train, "test": test}
    return Split(
        Pictures(train[0], to_pixels(size, gray=True, augment=True), train[1], times=options.times),
        Pictures(train[0], to_pixels(size, gray=True), train[1]),
        Pictures(data, to_pixels(size, gray=True), items),
        list(data.classes),
        cases,
        [caption for _, _, caption in cases],
        held=apart(*([of[i] for i in train[1]] for of in (train[0].targets, train[0].subjects))),
        subjects={k: sorted({d.subjects[i] for i in rows}) for k, (d, rows) in sides.items()},
    )


def middle_slices(
    data: NeuromelaninMRI, items: Sequence[int], n_patients: int, n_others: int
) -> list[int]:
    """Positions in ``items``: the middle slice of the first patients, then of the first others."""
    slices: dict[tuple[int, str], list[int]] = {}
    for position, i in enumerate(items):
        slices.setdefault((data.targets[i], data.subjects[i]), []).append(position)
    middle = {key: rows[len(rows) // 2] for key, rows in slices.items()}
    patients = [middle[key] for key in sorted(middle) if key[0] == 1]
    others = [middle[key] for key in sorted(middle) if key[0] == 0]
    return patients[:n_patients] + others[:n_others]
