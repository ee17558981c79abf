"""Heads on disk: written whole or not at all, read without running code."""

import io
import os
import pickle
import tempfile
from pathlib import Path

import torch

from captum_hrcam.head import Head

FORMAT = "captum-hrcam head"
VERSION = 1


def save(path: str | os.PathLike[str], head: Head, attribute_to_layer_input: bool) -> None:
    """Write to a temporary file beside ``path``, then rename."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: no folder {os.fspath(path.parent)!r}; make it first.")
    state = {
        "format": FORMAT,
        "version": VERSION,
        "attribute_to_layer_input": attribute_to_layer_input,
        "head": head.state(),
    }
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load(path: str | os.PathLike[str]) -> tuple[Head, bool]:
    """The head in a file, and whether it reads the layers' inputs."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"path: no file {os.fspath(path)!r}; save a fitted HRCAM first.")
    foreign = f"path: {os.fspath(path)!r} is truncated or was not written by HRCAM.save."
    content = io.BytesIO(Path(path).read_bytes())  # so that what follows is about the content
    try:
        state = torch.load(content, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise ValueError(foreign) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(foreign)
    if state.get("version") != VERSION:
        raise ValueError(
            f"path: {os.fspath(path)!r} has format version {state.get('version')}, this "
            f"captum-hrcam reads {VERSION}. Update captum-hrcam or fit again."
        )
    try:
        return Head.from_state(state["head"]), bool(state["attribute_to_layer_input"])
    except (KeyError, TypeError) as error:
        raise ValueError(foreign) from error
