"""A folder that keeps the features of one frozen pass for later fits, and when to trust it."""

import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from captum_hrcam import group
from captum_hrcam.features import FeatureCollector
from captum_hrcam.files import written_whole
from captum_hrcam.labels import label_tensor
from captum_hrcam.moments import Moments
from captum_hrcam.rows import RowFile

VERSION = 2
NEVER = "unknown"  # the digest of a function, whose weights cannot be known
PARTS = {False: "fitted", True: "held"}  # whether images are held out -> the name of their part


class DataDigest:
    """Tells whether two loaders gave the same images and labels, in whatever order."""

    def __init__(self) -> None:
        self._sum = 0

    def add(self, inputs: tuple[Tensor, ...], labels: object) -> None:
        """Take one batch."""
        columns = [x.detach().cpu().contiguous() for x in inputs]
        if labels is not None:
            columns.append(label_tensor(labels, len(inputs[0])).contiguous())
        for image in zip(*columns, strict=True):
            code = hashlib.blake2b(digest_size=16)
            for part in image:
                code.update(f"{part.dtype}{tuple(part.shape)}".encode())
                code.update(part.reshape(-1).view(torch.uint8).numpy().data)
            self._sum += int.from_bytes(code.digest(), "big")

    def value(self) -> str:
        """The sum of the images' digests."""
        return f"{self._sum % 2**128:032x}"


def model_digest(model: object) -> str:
    """A digest of a module's parameters, buffers and structure; ``NEVER`` for anything else."""
    if not isinstance(model, nn.Module):
        return NEVER
    code = hashlib.blake2b(str(model).encode(), digest_size=16)
    # The state lacks the buffers that are not saved with a model.
    for name, value in (dict(model.named_buffers()) | model.state_dict()).items():
        # A module's extra state may be anything; lazy weights exist only after the first forward.
        if not isinstance(value, torch.Tensor) or is_lazy(value):
            return NEVER
        code.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        code.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return code.hexdigest()


@dataclass
class FeatureCache:
    """Keeps the features of one frozen pass in a folder.

    One file holds the rows. A second holds their moments, what they depend on, and the first
    file's name. It is written last and whole: if it is missing after an interruption, nothing is
    trusted. Each pass writes a new file of rows, so that a fit in another process can go on reading
    the one it has. Neither file contains a pickle.

    Args:
        folder: created if missing.
        about: what the features depend on besides the data: model, layers, options.

    Raises:
        OSError: the folder cannot be written.
    """

    folder: Path
    about: dict[str, Any]

    def __post_init__(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise OSError(
                error.errno,
                f"cache: {os.fspath(self.folder)!r} is no folder that can be written "
                f"({error.strerror}); name another",
            ) from error
        self._stem = f"features-{group.rank()}-of-{group.size()}"
        self.about = json.loads(json.dumps(self.about, default=int))  # NumPy's too, as from a file

    @property
    def _about_file(self) -> Path:
        return self.folder / f"{self._stem}.npz"

    def begin(self) -> RowFile:
        """Delete what an earlier pass left, and open a new file of rows."""
        for old in (self._about_file, *self.folder.glob(f"{self._stem}.*rows")):
            with suppress(FileNotFoundError, PermissionError):  # Windows keeps files in use
                old.unlink()
        return RowFile(self.folder / f"{self._stem}.{secrets.token_hex(8)}.rows")

    @contextmanager
    def writing(self) -> Iterator[RowFile]:
        """A new file of rows, closed and removed if its use fails or is interrupted."""
        rows = self.begin()
        try:
            yield rows
        except BaseException:
            with suppress(OSError):  # a full disk does not take what is still buffered
                rows.close()
            (self.folder / rows.path.name).unlink(missing_ok=True)  # nothing outside the folder
            raise

    def complete(
        self, collector: FeatureCollector, digest: DataDigest, seen: dict[str, Any]
    ) -> None:
        """Mark the pass as complete, so that later fits trust it.

        Args:
            collector: has taken the whole pass; its rows are in the file from ``writing``.
            digest: has taken all images and labels.
            seen: what else the pass found, in types that JSON can hold.
        """
        rows = collector.kept
        assert isinstance(rows, RowFile)
        rows.sync()
        about = self.about | {"data": digest.value(), "version": VERSION}
        note = {"about": about, "seen": seen, "widths": rows.widths, "n": collector.n}
        note |= {"rows": rows.path.name}
        arrays: dict[str, Any] = {
            f"{PARTS[held]}.{name}": np.asarray(value)
            for held, moments in collector.by_part.items()
            for name, value in vars(moments).items()
        }
        with written_whole(self._about_file) as file:
            np.savez(file, note=np.array(json.dumps(note)), **arrays)

    def candidate(self) -> dict[str, Any] | None:
        """What an earlier pass with the same model, layers and options left, or None if nothing
        complete is there. The caller must still compare the data."""
        if self.about["model"] == NEVER:
            return None
        try:
            with np.load(self._about_file, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
            note = json.loads(str(found.pop("note")))
            rows = self.folder / Path(note["rows"]).name
            whole = rows.stat().st_size == 4 * note["n"] * sum(note["widths"])
            same = {k: v for k, v in note["about"].items() if k != "data"}
            if not whole or same != self.about | {"version": VERSION}:
                return None
            moments = {held: _moments(found, part) for held, part in PARTS.items()}
            return note | {"moments": moments, "file": RowFile.existing(rows, note["widths"])}
        except Exception:  # no file, or whatever zip, numpy or JSON raise for a damaged one
            return None

    def restore(self, candidate: dict[str, Any]) -> FeatureCollector:
        """The collector of the pass that ``candidate`` found."""
        return FeatureCollector(candidate["file"], candidate["moments"])


def _moments(arrays: dict[str, Any], part: str) -> Moments:
    values = {field.name: arrays[f"{part}.{field.name}"] for field in fields(Moments)}
    n = int(values.pop("n"))
    return Moments(n, **{k: torch.from_numpy(v) for k, v in values.items()})


def is_read_once(data: Iterable[Any]) -> bool:
    """Whether data is a generator or iterator, which cannot be compared first and then read."""
    return hasattr(data, "__next__")
