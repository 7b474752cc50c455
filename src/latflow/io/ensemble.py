"""Ensembles on disk: rows are appended, committed, and never changed again."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from latflow.errors import FileError, LockedError, MismatchError
from latflow.io import layout as lay
from latflow.io.atomic import sync_directory
from latflow.io.errors import differences, explained, file_error
from latflow.io.layout import Column, Slot

_BLOCK_BYTES = 1 << 24


class EnsembleFile:
    """An HDF5 file of rows (configurations, measurements), with an optional state that is replaced together with them.

    Rows exist once `append` has returned: it writes them, then a counter that readers trust. A process killed at any moment
    leaves the rows of the last `append` that returned (or, if it was just about to, the one after). Every row carries a CRC-32,
    so `read` returns what was written or raises DamagedFileError. `layout.py` describes the file; in h5py it is an ordinary
    HDF5 file, of whose datasets the first `attrs["n_committed"]` rows (divided by `every`) are valid.

    One process writes at a time (LockedError); any number may read meanwhile. Every problem with the file is a FileError.
    """

    def __init__(self, path: Path, fd: int, layout: lay.Layout, writable: bool):
        self.path = path
        self._fd = fd
        self._layout = layout
        self._writable = writable

    @classmethod
    def create(
        cls,
        path: Path | str,
        kind: str,
        theory: Any,
        columns: Mapping[str, Column | tuple],
        *,
        settings: Any = None,
        metadata: Any = None,
        state: Mapping[str, Any] | None = None,
        capacity: int = 1024,
    ) -> EnsembleFile:
        """A new, empty file, open for appending; an existing one is replaced.

        `columns` maps names (`/` makes groups) to (shape, dtype) or (shape, dtype, every) of one row; `state` gives the first
        state, whose shapes and dtypes stay. `theory` and `settings` are JSON values that a later run must agree with (see
        `open_or_create`); `metadata` is JSON that it need not. Room for `capacity` rows is claimed at once (DiskFullError);
        more rows make the file grow by a copy.
        """
        path = Path(path)
        planned = lay.plan(kind, theory, settings, metadata, columns, _slots(state), capacity)

        def fill(fd: int, layout: lay.Layout) -> None:
            _store(fd, layout, 0, 1, state or {})

        fd, layout = _create_in_place(path, planned, fill)
        return cls(path, fd, layout, True)

    @classmethod
    def open(cls, path: Path | str, mode: Literal["r", "a"] = "r") -> EnsembleFile:
        """An existing file, for reading or appending. Rows that were not committed are forgotten."""
        path = Path(path)
        with explained(path, "open"):
            fd = os.open(path, (os.O_RDWR if mode == "a" else os.O_RDONLY) | os.O_CLOEXEC)
        try:
            with explained(path, "read"):
                if mode == "a":
                    _lock(fd, path)
                file = cls(path, fd, lay.load(fd, path), mode == "a")
                rows = file.n_committed
                if mode == "a":
                    lay.write_all(fd, np.int64(rows).astype("<i8").tobytes(), file._layout.counter_at)
        except BaseException:
            os.close(fd)
            raise
        return file

    @classmethod
    def open_or_create(
        cls,
        path: Path | str,
        kind: str,
        theory: Any,
        columns: Mapping[str, Column | tuple],
        *,
        settings: Any = None,
        metadata: Any = None,
        state: Mapping[str, Any] | None = None,
        capacity: int = 1024,
    ) -> EnsembleFile:
        """`open` for appending if the file exists and is of the same kind, theory, settings, columns and shapes of the state
        (else MismatchError, which names what differs), `create` if it does not exist."""
        if not Path(path).exists():
            return cls.create(path, kind, theory, columns, settings=settings, metadata=metadata, state=state, capacity=capacity)
        file = cls.open(path, "a")
        try:
            planned = lay.plan(kind, theory, settings, None, columns, _slots(state), capacity)
            file.require(kind=kind, theory=planned.theory, settings=planned.settings)
            for what, there, here in (("column", file.columns, planned.columns), ("state", file.state, planned.state)):
                lines = differences({k: v.plain for k, v in there.items()}, {k: v.plain for k, v in here.items()}, what)
                file._complain(lines)
        except BaseException:
            file.close()
            raise
        return file

    def require(self, **expected: Any) -> None:
        """Raise MismatchError unless kind, theory or settings (whichever are given) agree; it names the keys that differ."""
        self._complain([line for name, value in expected.items() for line in differences(getattr(self, name), value, name)])

    def _complain(self, lines: list[str]) -> None:
        if lines:
            raise MismatchError(
                f"{self.path} was written by another run: " + "; ".join(lines),
                "use the same settings, choose another directory, or start afresh",
            )

    @property
    def kind(self) -> str:
        return self._layout.kind

    @property
    def theory(self) -> Any:
        return self._layout.theory

    @property
    def settings(self) -> Any:
        return self._layout.settings

    @property
    def metadata(self) -> Any:
        return self._layout.metadata

    @property
    def columns(self) -> dict[str, Column]:
        return self._layout.columns

    @property
    def state(self) -> dict[str, Slot]:
        return self._layout.state

    @property
    def n_committed(self) -> int:
        """Rows that exist."""
        return self._record()[0]

    @property
    def generation(self) -> int:
        """Number of commits so far, creation being the first."""
        return self._record()[1]

    def rows(self, name: str) -> int:
        """Rows of one column: `n_committed // every`."""
        return self.n_committed // self._column(name).every

    def append(self, rows: Mapping[str, Any], state: Mapping[str, Any] | None = None, count: int | None = None) -> None:
        """Add `count` rows and replace the state, both or neither.

        `rows` gives for every column an array (count, *shape) of the column's dtype, or for columns of every k-th row those
        due: (n + count) // every - n // every of them, when n rows exist. `count` may be left out if some column holds every
        row. `state` must be given in full if the file has one. Raises ValueError for wrong names, shapes and dtypes.
        """
        if not self._writable:
            raise ValueError(f"{self.path} is open for reading")
        n, generation, _ = self._record()
        if count is None:
            count = next((len(rows[k]) for k, c in self.columns.items() if c.every == 1 and k in rows), 0)
        arrays = {name: self._checked(name, rows, n, count) for name in self.columns}
        slots = {name: _exact(f"state {name}", (state or {}).get(name), s.shape, s.dtype) for name, s in self.state.items()}
        if set(rows) - set(arrays) or set(state or {}) - set(slots):
            raise ValueError(f"unknown columns or state: {sorted({*rows, *(state or {})} - {*arrays, *slots})}")
        with explained(self.path, "write"):
            if n + count > self._layout.capacity:
                self._grow(n + count)
            for name, array in arrays.items():
                column = self.columns[name]
                first = n // column.every
                lay.write_all(self._fd, array, column.offset + first * column.row_bytes)
                lay.write_all(self._fd, _row_checksums(name, first, array), column.checksums + 4 * first)
            _store(self._fd, self._layout, n + count, generation + 1, slots)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows [start, stop) of a column (a column of every k-th row counts its own rows), after checking their CRC."""
        column = self._column(name)
        first, last, _ = slice(start, stop).indices(self.rows(name))
        count = max(0, last - first)
        out = np.empty((count, *column.shape), column.dtype)
        checks = np.empty(count, "<u4")
        with explained(self.path, "read"):
            complete = lay.read_all(self._fd, out, column.offset + first * column.row_bytes)
            complete &= lay.read_all(self._fd, checks, column.checksums + 4 * first)
        if not complete or not np.array_equal(_row_checksums(name, first, out), checks):
            raise lay.damaged(self.path, f"rows {first} to {last} of {name} are altered")
        return out

    def read_state(self) -> dict[str, np.ndarray]:
        """The state as of the last commit. Raises DamagedFileError if it is altered."""
        _, generation, expected = self._record()
        out, crc = {}, 0
        for name, slot in self.state.items():
            out[name] = np.empty(slot.shape, slot.dtype)
            with explained(self.path, "read"):
                lay.read_all(self._fd, out[name], slot.offsets[generation % 2])
            crc = zlib.crc32(out[name].tobytes(), crc)
        if crc != expected:
            raise lay.damaged(self.path, "the stored state is altered")
        return out

    def verify(self) -> None:
        """Read everything once; raises DamagedFileError at the first altered row."""
        for name, column in self.columns.items():
            step = max(1, _BLOCK_BYTES // column.row_bytes)
            for start in range(0, self.rows(name), step):
                self.read(name, start, start + step)
        self.read_state()

    def close(self) -> None:
        """Make everything durable and let go of the file."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            try:
                if self._writable:
                    os.fsync(fd)
            except OSError as error:
                raise file_error(self.path, "write", error) from error
            finally:
                os.close(fd)

    def __enter__(self) -> EnsembleFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _record(self) -> tuple[int, int, int]:
        if self._fd < 0:
            raise ValueError(f"{self.path} is closed")
        with explained(self.path, "read"):
            return lay.unpack_record(self._fd, self._layout, self.path)

    def _column(self, name: str) -> Column:
        if name not in self.columns:
            raise FileError(f"{self.path} has no {name!r}", "it has " + ", ".join(self.columns))
        return self.columns[name]

    def _checked(self, name: str, rows: Mapping[str, Any], n: int, count: int) -> np.ndarray:
        column = self.columns[name]
        due = (n + count) // column.every - n // column.every
        value = rows.get(name)
        if value is None and due == 0:
            value = np.empty((0, *column.shape), column.dtype)
        return _exact(f"column {name}", value, (due, *column.shape), column.dtype)

    def _grow(self, needed: int) -> None:
        """Move to a file of at least twice the capacity; the old one stays valid until the new one replaces it."""
        planned = dataclasses.replace(self._layout, capacity=max(needed, 2 * self._layout.capacity))
        (n, generation, _), state = self._record(), self.read_state()

        def fill(fd: int, new: lay.Layout) -> None:
            for name, old in self.columns.items():
                length, to = n // old.every, new.columns[name]
                _copy(self._fd, old.offset, fd, to.offset, length * old.row_bytes)
                _copy(self._fd, old.checksums, fd, to.checksums, 4 * length)
            _store(fd, new, n, generation, state)

        fd, layout = _create_in_place(self.path, planned, fill)
        os.close(self._fd)
        self._fd, self._layout = fd, layout


def _create_in_place(path: Path, planned: lay.Layout, fill: Callable[[int, lay.Layout], None]) -> tuple[int, lay.Layout]:
    """Build a file beside `path`, `fill` it, lock it and rename it to `path`."""
    partial = path.with_name(path.name + ".partial")
    fd = -1
    try:
        with explained(path, "write"):
            layout = lay.create(partial, planned)
            fd = os.open(partial, os.O_RDWR | os.O_CLOEXEC)
            _lock(fd, path)
            fill(fd, layout)
            os.fsync(fd)
            partial.replace(path)
            sync_directory(path.parent)
    except BaseException:
        if fd >= 0:
            os.close(fd)
        partial.unlink(missing_ok=True)
        raise
    return fd, layout


def _store(fd: int, layout: lay.Layout, rows: int, generation: int, state: Mapping[str, np.ndarray]) -> None:
    """Commit: write the state to the free slot, see to it that everything is on disk, and only then advance the counter."""
    crc = 0
    for name, slot in layout.state.items():
        lay.write_all(fd, np.ascontiguousarray(state[name]), slot.offsets[generation % 2])
        crc = zlib.crc32(state[name].tobytes(), crc)
    os.fdatasync(fd)
    lay.write_all(fd, lay.pack_record(rows, generation, crc), lay.RECORD_AT)
    lay.write_all(fd, np.int64(rows).astype("<i8").tobytes(), layout.counter_at)


def _slots(state: Mapping[str, Any] | None) -> dict[str, tuple]:
    return {name: (value.shape, value.dtype) for name, value in (state or {}).items()}


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LockedError(f"{path} is being written by another process", "wait until it ends") from None


def _copy(source: int, start: int, target: int, to: int, length: int) -> None:
    buffer = np.empty(min(length, _BLOCK_BYTES), np.uint8)
    for done in range(0, length, _BLOCK_BYTES):
        part = buffer[: min(_BLOCK_BYTES, length - done)]
        lay.read_all(source, part, start + done)
        lay.write_all(target, part, to + done)


def _exact(what: str, value: Any, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """`value` as a contiguous array, which must have this shape and dtype."""
    if value is None:
        raise ValueError(f"{what} is missing")
    array = np.asarray(value)
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise ValueError(f"{what} needs {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")
    return np.ascontiguousarray(array).reshape(shape)


def _row_checksums(name: str, first: int, rows: np.ndarray) -> np.ndarray:
    """CRC-32 of each row, started from the column's name and the row's number so that misplaced rows are noticed too."""
    if not len(rows):
        return np.empty(0, "<u4")
    data = memoryview(rows.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    width = len(data) // len(rows)
    start = zlib.crc32(name.encode())
    crc = zlib.crc32
    sums = (crc(data[i * width : (i + 1) * width], start ^ (first + i)) for i in range(len(rows)))
    return np.fromiter(sums, "<u4", len(rows))
