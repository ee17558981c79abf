"""A BIDS folder: the participants' groups and their anatomical scans."""

from pathlib import Path

from captum_hrcam.datasets.files import read_table

# BIDS writes n/a, other programs what they like; a group may well be called "none".
MISSING = ("", "n/a", "N/A", "na", "NA", "nan", "NaN", "None")
# Entities of a file's name that tell kinds of images apart: a sequence, one echo, phase.
OF_KIND = ("acq", "ce", "rec", "mod", "echo", "flip", "inv", "mt", "part")


def read_groups(folder: Path, column: str, expected: str) -> dict[str, str]:
    """{participant: group} from ``participants.tsv``; ValueError for one without a group."""
    table = folder / "participants.tsv"
    rows = read_table(table, ("participant_id", column), expected, delimiter="\t")
    groups = {row["participant_id"].strip(): row[column].strip() for row in rows}
    for subject, group in groups.items():
        if group in MISSING:
            raise ValueError(
                f"{table}: {subject} has no {column}; expected a group for every participant."
            )
    return groups


def find_scans(
    folder: Path, participants: list[str], suffix: str | None, expected: str
) -> dict[str, list[Path]]:
    """
    {participant: scans in anat/}, all of one kind.

    Args:
        suffix: the scans' kind, as "MTw" or "part-mag_MTw"; where a participant has none of just
            this kind, what the scans' names end with; None for all scans.

    Raises:
        FileNotFoundError: a participant without a scan.
        ValueError: scans of someone who is not a participant; scans of several kinds; one scan
            twice.
    """
    table = folder / "participants.tsv"
    scans: dict[str, list[Path]] = {subject: [] for subject in participants}
    for anat in sorted([*folder.glob("sub-*/anat"), *folder.glob("sub-*/ses-*/anat")]):
        subject = anat.relative_to(folder).parts[0]
        found = sorted([*anat.glob("sub-*.nii.gz"), *anat.glob("sub-*.nii")])
        if suffix is not None:
            exact = [p for p in found if _kind(p) == suffix]
            found = exact or [p for p in found if _stem(p).endswith(f"_{suffix}")]
        twice = [path for path in found if path.suffix == ".nii" and Path(f"{path}.gz") in found]
        if twice:
            raise ValueError(f"{twice[0]}: is there as .nii.gz, too. Remove one of them.")
        if found and subject not in scans:
            raise ValueError(f"{table}: no row for {subject}, who has the scan {found[0]}.")
        if found:
            scans[subject] += found
    for subject in participants:
        if not scans[subject]:
            name = f"*_{suffix}.nii.gz" if suffix else "*.nii.gz"
            raise FileNotFoundError(
                f"{folder / subject / 'anat' / name}: not found, but {table} lists {subject}. "
                f"{expected}"
            )
    kinds = sorted({_kind(path) for paths in scans.values() for path in paths})
    if len(kinds) > 1:
        raise ValueError(
            f"suffix: {folder} has scans of several kinds, {', '.join(kinds)}. Name the one to "
            f"take, as suffix={kinds[0]!r}."
        )
    return scans


def _kind(path: Path) -> str:
    """The kind of a scan, such as part-mag_MTw of sub-01_run-1_part-mag_MTw.nii.gz."""
    *entities, suffix = _stem(path).split("_")
    return "_".join([e for e in entities if e.split("-")[0] in OF_KIND] + [suffix])


def _stem(path: Path) -> str:
    return path.name.split(".")[0]
