"""Published models: data only, safetensors with a JSON description, never anything that could run."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from jaxtyping import PyTree

from latflow.errors import DamagedFileError, MismatchError
from latflow.io.atomic import write_bytes, write_json
from latflow.io.errors import differences, explained

TENSORS = "model.safetensors"
DESCRIPTION = "model.json"
_FORMAT = "latflow-model"
_VERSION = 1
_BLANK = "SHA-256 of this file with this text in place of the digest".ljust(64, ".")


def save_model(directory: Path | str, model: PyTree, description: dict) -> None:
    """Write the arrays of `model` and the JSON `description` to `directory`, created if need be.

    `model.safetensors` holds everything, with a SHA-256 of itself in its header, so one rename makes the new model valid;
    `model.json` repeats the description for people. Complex arrays are stored as real ones with a last axis (re, im), which is
    all that safetensors lacks. Raises FileError (DiskFullError); an earlier model is then intact.
    """
    directory = Path(directory)
    tensors, entries = {}, []
    for path, leaf in _arrays(model):
        value = np.asarray(leaf)
        entries.append(_entry(path, leaf))
        tensors[path] = np.array(_real(value) if np.iscomplexobj(value) else value, order="C")
    head = {"format": _FORMAT, "version": _VERSION, "description": description, "tensors": entries}
    blank = safetensors.numpy.save(tensors, {"latflow": json.dumps(head, sort_keys=True, allow_nan=False), "sha256": _BLANK})
    digest = hashlib.sha256(blank).hexdigest()
    with explained(directory, "create"):
        directory.mkdir(parents=True, exist_ok=True)
    write_bytes(directory / TENSORS, blank.replace(_BLANK.encode(), digest.encode(), 1))
    write_json(directory / DESCRIPTION, {**head, "sha256": digest})


def load_model(directory: Path | str, template: PyTree) -> PyTree:
    """The model saved in `directory`, with the structure of `template` (arrays or `jax.ShapeDtypeStruct`, which are replaced).

    Raises FileError if there is none, DamagedFileError if any byte is altered, MismatchError (naming what differs) if it was
    made for another architecture or lattice.
    """
    data, head = _read(Path(directory))
    there = {entry.pop("path"): entry for entry in head["tensors"]}
    here = {entry.pop("path"): entry for entry in (_entry(path, leaf) for path, leaf in _arrays(template))}
    lines = differences(there, here)
    if lines:
        shown = "; ".join(lines[:5]) + (f"; and {len(lines) - 5} more" if len(lines) > 5 else "")
        raise MismatchError(f"the model in {directory} is of another kind: {shown}", "use the settings it was made with")
    tensors = safetensors.numpy.load(data)
    leaves, structure = jax.tree_util.tree_flatten_with_path(template)
    values = [_restored(tensors[jax.tree_util.keystr(path)], leaf) if _is_array(leaf) else leaf for path, leaf in leaves]
    return jax.tree.unflatten(structure, values)


def read_description(directory: Path | str) -> dict:
    """The description given to `save_model`. Raises FileError and DamagedFileError."""
    return _read(Path(directory))[1]["description"]


def _read(directory: Path) -> tuple[bytes, dict]:
    """The bytes of the tensors file and its header, both found intact."""
    path = directory / TENSORS
    with explained(path, "read"):
        data = path.read_bytes()
    try:
        (length,) = struct.unpack_from("<Q", data)
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        digest = metadata["sha256"]
        intact = hashlib.sha256(data.replace(digest.encode(), _BLANK.encode(), 1)).hexdigest() == digest
        head = json.loads(metadata["latflow"]) if intact else {}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path) from error
    if head.get("format") != _FORMAT or head.get("version") != _VERSION:
        raise _damaged(path)
    return data, head


def _damaged(path: Path) -> DamagedFileError:
    return DamagedFileError(
        f"{path} is not a model written by this version of latflow, or it is damaged",
        "restore it from a copy, or train it again",
    )


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)


def _arrays(tree: PyTree) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves if _is_array(leaf)]


def _entry(path: str, leaf: Any) -> dict:
    return {"path": path, "shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def _real(value: np.ndarray) -> np.ndarray:
    return np.stack([np.real(value), np.imag(value)], -1)


def _restored(stored: np.ndarray, leaf: Any) -> jax.Array:
    if jax.numpy.iscomplexobj(leaf):
        stored = (stored[..., 0] + 1j * stored[..., 1]).astype(leaf.dtype)
    return jax.numpy.asarray(stored, leaf.dtype)
