"""A BIDS folder: the participants' groups and their anatomical scans."""

from pathlib import Path

from captum_hrcam.datasets.files import read_table


def read_groups(folder: Path, column: str, expected: str) -> dict[str, str]:
    """{participant: group} from ``participants.tsv``; ValueError for one without a group."""
    table = folder / "participants.tsv"
    rows = read_table(table, ("participant_id", column), expected, delimiter="\t")
    groups = {row["participant_id"].strip(): row[column].strip() for row in rows}
    for subject, group in groups.items():
        if group in ("", "n/a"):  # BIDS writes a missing value as n/a
            raise ValueError(
                f"{table}: {subject} has no {column}; expected a group for every participant."
            )
    return groups


def find_scans(
    folder: Path, participants: list[str], suffix: str | None, expected: str
) -> dict[str, list[Path]]:
    """
    {participant: scans in anat/}, all of one BIDS suffix.

    Raises:
        FileNotFoundError: a participant without scan.
        ValueError: scans of someone who is no participant; scans of several suffixes.
    """
    table = folder / "participants.tsv"
    scans: dict[str, list[Path]] = {subject: [] for subject in participants}
    for anat in sorted([*folder.glob("sub-*/anat"), *folder.glob("sub-*/ses-*/anat")]):
        subject = anat.relative_to(folder).parts[0]
        found = sorted([*anat.glob("sub-*.nii.gz"), *anat.glob("sub-*.nii")])
        found = [path for path in found if suffix in (None, _suffix(path))]
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
    suffixes = sorted({_suffix(path) for paths in scans.values() for path in paths})
    if len(suffixes) > 1:
        raise ValueError(
            f"suffix: {folder} has scans of several kinds, {', '.join(suffixes)}. Name the one to "
            f"take, as suffix={suffixes[0]!r}."
        )
    return scans


def _suffix(path: Path) -> str:
    """The last part of the name, as MTw in sub-01_run-1_MTw.nii.gz."""
    return path.name.split(".")[0].split("_")[-1]
