"""Training checkpoints: Orbax for atomic directories, checksums so that a damaged one is noticed and passed over."""

from __future__ import annotations

import json
import logging
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from latflow.errors import DamagedFileError, DiskFullError, MismatchError
from latflow.io.errors import differences, explained, file_error

_NO_ROOM = re.compile(r"no space left|file too large|quota exceeded|ENOSPC|EFBIG|EDQUOT", re.IGNORECASE)
_REMEDY = "delete the directory, or start afresh"


class Restored(NamedTuple):
    """What `Checkpoints.restore` found: the step, the pytree, and the JSON value saved beside it."""

    step: int
    tree: PyTree
    extra: Any


class Checkpoints:
    """The last `keep` checkpoints in a directory, as a context manager.

    A checkpoint is a pytree whose arrays, typed PRNG keys and Python numbers are stored; other leaves (functions, strings) are
    left out and taken from the template when restoring. A process killed during `save` leaves the earlier checkpoints.
    """

    def __init__(self, directory: Path | str, keep: int = 2):
        self.directory = Path(directory).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False, create=True)
        with explained(self.directory, "write"), _quiet():
            self._manager = ocp.CheckpointManager(self.directory, options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._manager.close()

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, in increasing order; nothing is known yet about their health."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """The last step that has a checkpoint."""
        return max(self._manager.all_steps(), default=None)

    def save(self, step: int, tree: PyTree, extra: Any = None) -> None:
        """Store `tree` and the JSON value `extra` under `step`; checkpoints of this or later steps are replaced.

        Raises DiskFullError or FileError; earlier checkpoints are then intact.
        """
        arrays = {name: value for name, _, value in _stored(tree)}
        info = {"leaves": _describe(tree, arrays), "extra": extra}
        info["check"] = _json_crc(info)
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave({k: v for k, v in arrays.items() if v.size}),  # type: ignore[call-arg]
            info=ocp.args.JsonSave(info),  # type: ignore[call-arg]
        )
        try:
            with _quiet():
                for later in [s for s in self.steps() if s >= step]:
                    self._manager.delete(later)
                self._manager.save(step, args=arguments, force=True)
        except Exception as error:  # tensorstore reports a full disk as a ValueError
            if _NO_ROOM.search(str(error)):
                raise DiskFullError(
                    f"cannot write the checkpoint of step {step} to {self.directory}, there is no room left",
                    "free some space and run it again; earlier checkpoints are intact",
                ) from error
            if isinstance(error, OSError):
                raise file_error(self.directory, "write", error) from error
            raise

    def restore(self, template: PyTree, step: int | None = None) -> Restored:
        """The checkpoint of `step`, or the latest readable one: damaged ones are passed over with a warning.

        `template` has the structure, shapes and dtypes to be restored (arrays or `jax.ShapeDtypeStruct`). Raises MismatchError
        if the checkpoint is of another structure, and DamagedFileError if none (or not `step`) can be read.
        """
        candidates = self.steps()[::-1] if step is None else [step]
        for candidate in candidates:
            try:
                return self._restore(candidate, template)
            except DamagedFileError as error:
                if candidate == candidates[-1]:
                    raise
                warnings.warn(f"{error.cause}; going back to the one before", stacklevel=2)
        raise DamagedFileError(f"{self.directory} has no checkpoint", "train first")

    def _restore(self, step: int, template: PyTree) -> Restored:
        info = self._load(step, info=ocp.args.JsonRestore())["info"]  # type: ignore[call-arg]
        if not isinstance(info, Mapping) or info.get("check") != _json_crc({k: info[k] for k in info if k != "check"}):
            raise self._damaged(step, "its description is altered")
        wanted = {name: value for name, _, value in _stored(template)}
        plain = [{k: v for k, v in leaf.items() if k != "crc"} for leaf in info["leaves"]]
        here = _describe(template, None)
        lines = differences({leaf.pop("path"): leaf for leaf in plain}, {leaf.pop("path"): leaf for leaf in here})
        if lines:
            shown = "; ".join(lines[:5]) + (f"; and {len(lines) - 5} more" if len(lines) > 5 else "")
            raise MismatchError(
                f"the checkpoint in {self.directory} is of another model: {shown}", "use the settings it was made with"
            )
        abstract = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=_sharding(v)) for k, v in wanted.items() if v.size}
        arrays = self._load(step, state=ocp.args.StandardRestore(abstract))["state"] if abstract else {}  # type: ignore[call-arg]
        for leaf, (name, value) in zip(info["leaves"], wanted.items(), strict=True):
            found = arrays.get(name, np.empty(value.shape, value.dtype))
            if leaf["crc"] is not None and _crc(found) != leaf["crc"]:
                raise self._damaged(step, f"{leaf['path']} is altered")
            wanted[name] = found
        return Restored(step, _rebuilt(template, wanted), info["extra"])

    def _load(self, step: int, **arguments: Any) -> Any:
        try:
            with _quiet():
                return self._manager.restore(step, args=ocp.args.Composite(**arguments))
        except Exception as error:  # Orbax and tensorstore raise whatever the damage leads them into
            raise self._damaged(step, "it cannot be read") from error

    def _damaged(self, step: int, how: str) -> DamagedFileError:
        return DamagedFileError(f"the checkpoint of step {step} in {self.directory} is damaged, {how}", _REMEDY)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax's own log lines, with their tracebacks, off the terminal: what went wrong is raised anyway."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _is_stored(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct | np.ndarray | np.generic | bool | int | float | complex)


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> Any:
    """The array that stands for a leaf in the file."""
    if _is_key(leaf):
        return (
            jax.eval_shape(jax.random.key_data, leaf) if isinstance(leaf, jax.ShapeDtypeStruct) else jax.random.key_data(leaf)
        )
    return leaf if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct | np.ndarray) else np.asarray(leaf)


def _stored(tree: PyTree) -> list[tuple[str, str, Any]]:
    """(name in the file, path in the tree, array) of every stored leaf."""
    leaves = [(path, leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0] if _is_stored(leaf)]
    return [(f"leaf_{i:05d}", jax.tree_util.keystr(path), _plain(leaf)) for i, (path, leaf) in enumerate(leaves)]


def _describe(tree: PyTree, arrays: dict[str, Any] | None) -> list[dict]:
    """Path, shape and dtype of every stored leaf, with a CRC if the `arrays` are given."""
    kinds = [str(leaf.dtype) if _is_key(leaf) else None for leaf in jax.tree.leaves(tree) if _is_stored(leaf)]
    out = []
    for kind, (name, path, value) in zip(kinds, _stored(tree), strict=True):
        entry = {"path": path, "shape": list(value.shape), "dtype": kind or str(value.dtype)}
        out.append(entry if arrays is None else {**entry, "crc": _crc(arrays[name])})
    return out


def _rebuilt(template: PyTree, arrays: dict[str, Any]) -> PyTree:
    leaves, structure = jax.tree.flatten(template)
    values = iter(arrays.values())
    return jax.tree.unflatten(structure, [_like(leaf, next(values)) if _is_stored(leaf) else leaf for leaf in leaves])


def _like(leaf: Any, value: Any) -> Any:
    if _is_key(leaf):
        return jax.random.wrap_key_data(value, impl=jax.random.key_impl(leaf))
    if isinstance(leaf, bool | int | float | complex) and not isinstance(leaf, np.generic):
        return np.asarray(value).item()
    return np.asarray(value) if isinstance(leaf, np.ndarray | np.generic) else jax.numpy.asarray(value)


def _sharding(value: Any) -> Any:
    sharding = getattr(value, "sharding", None)
    return sharding if sharding is not None else jax.sharding.SingleDeviceSharding(jax.devices()[0])


def _crc(value: Any) -> int | None:
    """CRC-32 of an array, None where this process does not hold all of it."""
    if not getattr(value, "is_fully_addressable", True):
        return None
    return zlib.crc32(np.asarray(value).tobytes())


def _json_crc(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())
