"""Heads on disk: safetensors, written whole or not at all, read without running code."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from captum_hrcam.checks import one_of
from captum_hrcam.files import in_a_folder, written_whole
from captum_hrcam.head import Head
from captum_hrcam.labels import LOSSES
from captum_hrcam.placing import FURTHEST

FORMAT = "captum-hrcam head"  # the metadata's only key: several would come in any order
VERSION = 4  # 1 had no displacements, 2 not the loss, 3 no fingerprint
LAYER_FIELDS = ("weights", "mean_score", "spread")  # one row or value for each class


def save(path: str | os.PathLike[str], head: Head, attribute_to_layer_input: bool) -> None:
    """Write the head; an earlier file stays until the new one is whole."""
    tensors = {"bias": head.bias, "fingerprint": head.fingerprint}
    for field in (*LAYER_FIELDS, "displacement"):
        tensors |= {f"{field}/{name}": value for name, value in getattr(head, field).items()}
    state = {
        "version": VERSION,
        "layers": list(head.weights),
        "centred": head.centred,
        "loss": head.loss,
        "attribute_to_layer_input": attribute_to_layer_input,
    }
    # Copies: the format does not allow tensors that share memory.
    copies = {name: value.detach().cpu().double().clone() for name, value in tensors.items()}
    content = to_bytes(copies, {FORMAT: json.dumps(state)})
    with written_whole(in_a_folder(path)) as file:
        file.write(content)


def load(path: str | os.PathLike[str]) -> tuple[Head, bool]:
    """The head in a file, and whether it reads the layers' inputs."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: no file {os.fspath(path)!r}; save a fitted HRCAM first.")
    with _named(path), safe_open(path, "pt") as file:
        state = json.loads(file.metadata()[FORMAT])
        version = state["version"]
        # Copies: a view of the file would change with it.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    if type(version) is not int or version not in range(1, VERSION + 1):
        raise ValueError(
            f"path: {os.fspath(path)!r} has format version {version}, this captum-hrcam reads "
            f"1 to {VERSION}. Update captum-hrcam or fit again."
        )
    with _named(path):
        return _head(state, tensors), _flag(state, "attribute_to_layer_input")


def _flag(state: dict[str, Any], name: str) -> bool:
    value = state[name]
    if type(value) is not bool:
        raise ValueError(f"{name} is {value!r}")
    return value


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn whatever is wrong with a file's content into an error that names the file."""
    try:
        yield
    except (
        SafetensorError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,  # of nested JSON
    ) as error:
        raise ValueError(
            f"path: {os.fspath(path)!r} is truncated or was not written by HRCAM.save ({error}). "
            "Save the head again."
        ) from error


def _head(state: dict[str, Any], tensors: dict[str, Tensor]) -> Head:
    """The head, checked: each layer has all it needs, for as many classes, and finite."""
    if not all(isinstance(name, str) for name in state["layers"]):
        raise ValueError(f"layers are {state['layers']!r}")
    bias = tensors.pop("bias")
    fingerprint = tensors.pop("fingerprint", bias[:0])  # there was none before version 4
    if fingerprint.ndim != 1 or not _are_finite(fingerprint):
        raise ValueError("the fingerprint is no row of finite float64")
    fields = {
        field: {name: tensors.pop(f"{field}/{name}") for name in state["layers"]}
        for field in LAYER_FIELDS
    }
    moved = [name for name in state["layers"] if f"displacement/{name}" in tensors]
    displacement = {name: tensors.pop(f"displacement/{name}") for name in moved}
    if tensors:
        raise ValueError(f"{next(iter(tensors))!r} is of no layer")
    if moved and moved != state["layers"]:
        raise ValueError("some layers have a displacement, others none")
    for name, value in displacement.items():
        is_row = value.dtype == torch.float64 and value.shape in [(1,), (2,), (3,)]
        if not is_row or not (value.abs() <= FURTHEST).all():
            raise ValueError(f"displacement {name} is no row of float64 up to {FURTHEST} cells")
    of_layers = [(field, *item) for field in LAYER_FIELDS for item in fields[field].items()]
    for field, name, value in [("bias", "", bias), *of_layers]:
        is_whole = value.ndim == (2 if field == "weights" else 1) and 0 not in value.shape
        if not is_whole or len(value) != len(bias):
            raise ValueError(f"{field} {name} of shape {tuple(value.shape)}, {len(bias)} classes")
        if not _are_finite(value):
            raise ValueError(f"{field} {name} not finite float64")
    if any((value < 0).any() for value in fields["spread"].values()):
        raise ValueError("a spread below 0")
    centred, loss = _flag(state, "centred"), state.get("loss", "cross_entropy")
    one_of("loss", loss, LOSSES)
    return Head(
        **fields,
        bias=bias,
        displacement=displacement,
        centred=centred,
        loss=loss,
        fingerprint=fingerprint,
    )


def _are_finite(value: Tensor) -> bool:
    return value.dtype == torch.float64 and bool(value.isfinite().all())
