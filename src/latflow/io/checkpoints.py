"""Training checkpoints: Orbax for atomic directories, digests so that a damaged one is noticed and passed over."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from latflow.errors import DamagedFileError, DiskFullError, MismatchError
from latflow.io.atomic import write_json
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
        info = {"leaves": _describe(tree), "extra": extra}
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave({k: v for k, v in arrays.items() if v.size}),  # type: ignore[call-arg]
            info=ocp.args.JsonSave(info),  # type: ignore[call-arg]
        )
        try:
            with _quiet():
                for later in [s for s in self.steps() if s >= step]:
                    self._manager.delete(later)
                self._manager.save(step, args=arguments, force=True)
            if jax.process_index() == 0:
                write_json(self._digests(step), _file_digests(self.directory / str(step)))
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
        self._check_files(step)
        info = self._load(step, info=ocp.args.JsonRestore())["info"]  # type: ignore[call-arg]
        lines = differences(info["leaves"], _describe(template))
        if lines:
            shown = "; ".join(lines[:5]) + (f"; and {len(lines) - 5} more" if len(lines) > 5 else "")
            raise MismatchError(
                f"the checkpoint in {self.directory} is of another model: {shown}", "use the settings it was made with"
            )
        wanted = {name: value for name, _, value in _stored(template)}
        abstract = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=_sharding(v)) for k, v in wanted.items() if v.size}
        arrays = self._load(step, state=ocp.args.StandardRestore(abstract))["state"] if abstract else {}  # type: ignore[call-arg]
        found = {name: arrays.get(name, np.empty(value.shape, value.dtype)) for name, value in wanted.items()}
        return Restored(step, _rebuilt(template, found), info["extra"])

    def _digests(self, step: int) -> Path:
        return self.directory / str(step) / "digests.json"

    def _check_files(self, step: int) -> None:
        """Compare the files with the digests written after them. If there are none, the process was killed between the two,
        and Orbax's own checks have to do: they are weaker, and tensorstore prints what it finds."""
        path = self._digests(step)
        if not path.is_file():
            return
        try:
            expected = json.loads(path.read_bytes())
            if not isinstance(expected, dict):
                raise ValueError
            found = _file_digests(path.parent)
        except (OSError, ValueError) as error:
            raise self._damaged(step, "its files cannot be read") from error
        altered = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        if altered:
            raise self._damaged(step, f"{altered[0]} is altered or missing")

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


def _describe(tree: PyTree) -> dict[str, dict]:
    """Shape and dtype of every stored leaf by path."""
    kinds = [str(leaf.dtype) if _is_key(leaf) else None for leaf in jax.tree.leaves(tree) if _is_stored(leaf)]
    leaves = zip(kinds, _stored(tree), strict=True)
    return {path: {"shape": list(value.shape), "dtype": kind or str(value.dtype)} for kind, (_, path, value) in leaves}


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


def _file_digests(directory: Path) -> dict[str, str]:
    files = sorted(p for p in directory.rglob("*") if p.is_file() and p.parent != directory)
    return {str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
