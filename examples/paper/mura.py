"""MURA, normal and abnormal radiographs: the paper's Figs. 6A and 6B."""

from argparse import ArgumentParser, Namespace

from captum_hrcam.datasets import MURA
from paper.pictures import Pictures, Split, apart, first_of_each, to_pixels


def add_options(parser: ArgumentParser) -> None:
    seven = "as shoulder wrist; by default all seven"
    parser.add_argument("--study-type", nargs="+", metavar="TYPE", help=seven)


def splits(options: Namespace) -> list[Split]:
    """The data set's own train and valid parts; an abnormal case of each study type.

    The loader gives radiographs in RGB, those in grey with their channel repeated.
    """
    size = options.image_size
    train = MURA(options.root, "train", study_type=options.study_type)
    valid = MURA(options.root, "valid", study_type=options.study_type)
    abnormal = [i for i, label in enumerate(valid.targets) if label]
    if not abnormal:
        raise ValueError(f"--study-type: {options.study_type} has no abnormal study to draw.")
    shown = first_of_each([valid.study_types[i] for i in abnormal], abnormal)
    cases = [(i, 1, valid.study_types[i].removeprefix("XR_").lower()) for i in shown]
    return [
        Split(
            Pictures(train, to_pixels(size, augment=True)),
            Pictures(train, to_pixels(size)),
            Pictures(valid, to_pixels(size)),
            list(valid.classes),
            cases,
            [valid.names[i] for i in shown],
            held=apart(train.targets, train.patients),
        )
    ]
