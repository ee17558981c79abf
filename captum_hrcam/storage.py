"""Heads on disk: written whole or not at all, read without running code.

The layout is that of safetensors (https://github.com/huggingface/safetensors): the header's length
in eight bytes, the header in JSON, the tensors' bytes. No pickle is involved, and no more memory is
taken than the file's own size gives reason for.
"""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_hrcam.files import in_a_folder, written_whole
from captum_hrcam.head import Head

FORMAT = "captum-hrcam head"
VERSION = "1"
MAX_HEADER = 2**23  # bytes; a layer takes about 300
LAYER_FIELDS = ("weights", "mean_score", "spread")


def save(path: str | os.PathLike[str], head: Head, attribute_to_layer_input: bool) -> None:
    """Write the head; an earlier file stays until the new one is whole."""
    with written_whole(in_a_folder(path)) as file:
        file.writelines(_blocks(head, attribute_to_layer_input))


def load(path: str | os.PathLike[str]) -> tuple[Head, bool]:
    """The head in a file, and whether it reads the layers' inputs."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: no file {os.fspath(path)!r}; save a fitted HRCAM first.")
    with _named(path):
        header, content = _read(path)
        about = header.pop("__metadata__")
        if about["format"] != FORMAT:
            raise ValueError("another format")
        version = about["version"]
    if version != VERSION:
        raise ValueError(
            f"path: {os.fspath(path)!r} has format version {version}, this captum-hrcam reads "
            f"{VERSION}. Update captum-hrcam or fit again."
        )
    with _named(path):
        state = json.loads(about["head"])
        tensors = {name: _tensor(entry, content) for name, entry in header.items()}
        return _head(state, tensors), bool(state["attribute_to_layer_input"])


# ---- out


def _blocks(head: Head, attribute_to_layer_input: bool) -> list[bytes]:
    tensors = {"bias": head.bias}
    for field in LAYER_FIELDS:
        tensors |= {f"{field}/{name}": value for name, value in getattr(head, field).items()}
    state = {
        "layers": list(head.weights),
        "centred": head.centred,
        "attribute_to_layer_input": attribute_to_layer_input,
    }
    about = {"format": FORMAT, "version": VERSION, "head": json.dumps(state)}
    header: dict[str, Any] = {"__metadata__": about}
    data, end = [], 0
    for name, value in tensors.items():
        data.append(value.detach().cpu().numpy().astype("<f8").tobytes())
        begin, end = end, end + len(data[-1])
        header[name] = {"dtype": "F64", "shape": list(value.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    return [len(text).to_bytes(8, "little"), text, *data]


# ---- in


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever is wrong with a file's content is said with its name."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"path: {os.fspath(path)!r} is truncated or was not written by HRCAM.save ({error}). "
            "Save the head again."
        ) from error


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and tensors' bytes, their claims checked against the file's size first."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size - 8
        length = int.from_bytes(file.read(8), "little")
        if length > min(size, MAX_HEADER):
            raise ValueError(f"a header of {length} bytes, at most {MAX_HEADER} in all are read")
        header, room = json.loads(file.read(length)), size - length
        spans = [e["data_offsets"] for name, e in header.items() if name != "__metadata__"]
        claimed = sum(end - begin for begin, end in spans)
        if claimed != room or not all(0 <= begin <= end <= room for begin, end in spans):
            raise ValueError(f"tensors of {claimed} bytes, {room} follow the header")
        return header, file.read(room)


def _tensor(entry: dict[str, Any], content: bytes) -> Tensor:
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    if entry["dtype"] != "F64" or 8 * math.prod(shape) != end - begin or min(shape) < 1:
        raise ValueError(f"{entry['dtype']} {shape} in {end - begin} bytes")
    values = np.frombuffer(content, "<f8", math.prod(shape), begin)
    return torch.from_numpy(values.astype(np.float64)).reshape(shape)


def _head(state: dict[str, Any], tensors: dict[str, Tensor]) -> Head:
    """The head, checked: each layer has all it needs, for as many classes, and finite."""
    bias = tensors.pop("bias")
    fields = {
        field: {name: tensors.pop(f"{field}/{name}") for name in state["layers"]}
        for field in LAYER_FIELDS
    }
    if tensors:
        raise ValueError(f"{next(iter(tensors))!r} is of no layer")
    of_layers = [(field, *item) for field in LAYER_FIELDS for item in fields[field].items()]
    for field, name, value in [("bias", "", bias), *of_layers]:
        if value.ndim != (2 if field == "weights" else 1) or len(value) != len(bias):
            raise ValueError(f"{field} {name} of shape {tuple(value.shape)}, {len(bias)} classes")
        if not value.isfinite().all():
            raise ValueError(f"{field} {name} not finite")
    return Head(**fields, bias=bias, centred=bool(state["centred"]))
