"""Rows in memory and on disk give the same columns, and what was read from disk is let go."""

import errno
import mmap
from pathlib import Path

import pytest
import torch
from conftest import BY_NAME, fitted

from captum_hrcam import group
from captum_hrcam.features import Features, Sample
from captum_hrcam.rows import AllRows, RowFile, memory_of_machine

WHERE = {
    "memory": lambda folder: AllRows(1e9),
    "file": lambda folder: RowFile(folder / "rows"),
    "file from the middle on": lambda folder: AllRows(900),
    "file from the first batch on": lambda folder: AllRows(1),
}


LETS_GO = pytest.mark.skipif(
    not hasattr(mmap, "MADV_DONTNEED"), reason="the system cannot let go of pages"
)


def batches(n: int = 50) -> list[tuple[torch.Tensor, ...]]:
    """Flags, features, targets and no outputs, in batches of eight."""
    generator = torch.Generator().manual_seed(0)
    z, y = (torch.randn(n, width, generator=generator) for width in (7, 3))
    columns = (torch.arange(n) % 5 == 0, z, y, torch.zeros(n, 0))
    return list(zip(*(column.split(8) for column in columns), strict=True))


@pytest.mark.parametrize("where", WHERE)
def test_columns_come_back_as_they_went(where, tmp_path):
    kept, expected = WHERE[where](tmp_path), Sample(None)
    for batch in batches():
        kept.add(*batch)
        expected.add(*batch)
    for _ in range(2):
        for column, other in zip(kept.rows(), expected.rows(), strict=True):
            assert torch.equal(column, other)
    assert (kept.forget is not None) == where.startswith("file")


def test_a_temporary_file_goes_with_its_rows():
    kept = AllRows(1)
    for batch in batches():
        kept.add(*batch)
    path = kept.file.path
    assert path.exists()
    kept.rows()
    del kept
    assert not path.exists()


def test_changing_a_column_leaves_the_file(tmp_path):
    kept = RowFile(tmp_path / "rows")
    for batch in batches():
        kept.add(*batch)
    kept.rows()[1].zero_()
    assert RowFile.existing(kept.path, kept.widths).rows()[1].abs().min() > 0


@LETS_GO
def test_reading_chunks_holds_no_more_than_a_chunk(tmp_path, monkeypatch):
    for module in ("features", "rows"):
        monkeypatch.setattr(f"captum_hrcam.{module}.CHUNK_BYTES", 2**20)
    kept = RowFile(tmp_path / "rows")
    for _ in range(40):  # 40 MB
        kept.add(torch.zeros(250, dtype=torch.bool), torch.ones(250, 1000), torch.ones(250, 1))
    features = Features(*kept.rows(), outputs=torch.zeros(10_000, 0), forget=kept.forget)
    assert mapped(kept.path) < 4e6  # though a flag of every row was read
    features.z.sum()
    features.forget()
    before, most = mapped(kept.path), 0
    for part in features.chunks():
        assert part.z.sum() == part.z.numel()
        most = max(most, mapped(kept.path))
    assert most - before < 4e6
    drawn = features.sample(5000)
    assert len(drawn) == 5000
    assert mapped(kept.path) < 4e6


class Watched(RowFile):
    """Knows the most memory that it took before it let go."""

    most = 0

    def forget(self) -> None:
        self.most = max(self.most, mapped(self.path))
        super().forget()


@LETS_GO
def test_reading_flags_holds_no_more_than_a_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr("captum_hrcam.rows.CHUNK_BYTES", 2**20)
    kept = Watched(tmp_path / "rows")
    for _ in range(10):  # 10 MB
        kept.add(torch.zeros(250, dtype=torch.bool), torch.ones(250, 1000))
    kept.rows()
    assert 0 < kept.most < 4e6


def mapped(path: Path) -> int:
    """Bytes of a file in this process's memory."""
    text = Path("/proc/self/smaps").read_text().split(str(path))[1]
    line = next(line for line in text.splitlines() if line.startswith("Rss:"))
    return int(line.split()[1]) * 1024


def test_a_quarter_of_the_memory_is_for_rows():
    assert AllRows().limit == memory_of_machine() / 4
    assert 2**28 < memory_of_machine() < 2**50  # bytes


def test_the_quarter_is_for_all_ranks_on_the_machine(monkeypatch):
    monkeypatch.setattr(group, "size", lambda: 16)
    monkeypatch.setattr(group, "rank", lambda: 0)
    assert AllRows().limit == memory_of_machine() / 4 / 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert AllRows().limit == memory_of_machine() / 4 / 8


@pytest.mark.parametrize(("limit", "is_less"), [("1000000", True), ("max", False)])
def test_a_container_has_its_share(limit, is_less, tmp_path, monkeypatch):
    whole = memory_of_machine()
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    monkeypatch.setattr("captum_hrcam.rows.CONTAINER", tmp_path / "memory.max")
    assert (memory_of_machine() == 1_000_000) == is_less
    assert is_less or memory_of_machine() >= whole


@pytest.mark.parametrize("error", [AttributeError, ValueError, OSError])
def test_a_system_that_does_not_tell_its_memory_has_enough(error, monkeypatch):
    def unknown(name):
        raise error

    monkeypatch.setattr("os.sysconf", unknown, raising=False)
    monkeypatch.setattr("captum_hrcam.rows.CONTAINER", Path("/no/such/file"))
    assert memory_of_machine() > 2**50


def test_a_full_disk_is_told(tmp_path):
    kept = RowFile(Path("/dev/full"))
    with pytest.raises(OSError, match=r"cache: '/dev/full' cannot take more.*free some") as told:
        kept.add(torch.zeros(1000, dtype=torch.bool), torch.ones(1000, 100))
    assert told.value.errno == errno.ENOSPC


@pytest.mark.parametrize(("share", "is_told"), [(0.0, True), (1.0, False)])
def test_a_fit_tells_that_its_features_lay_on_disk(share, is_told, monkeypatch):
    monkeypatch.setattr("captum_hrcam.rows.SHARE_OF_MEMORY", share)
    report = fitted(BY_NAME["vgg2d"], solver="ridge", penalty=1.0).report
    told = any(choice.startswith("features: on disk while fitting") for choice in report.choices)
    assert told == is_told
