"""Configuration files time slice by time slice: read and verified on the way, measured, written; a few slices are in memory.

A file is a text in front, the time slices, and a text behind them. What a format knows about the texts, `LinkFile` and `Frame`
say; the links are read and written here, whether the other end is a file or an array.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array

from latflow.errors import FileError
from latflow.groups import SUN
from latflow.io.atomic import replacing
from latflow.io.errors import explained
from latflow.io.link_order import (
    Links,
    Slice,
    add_plaquettes,
    deviation,
    require_unitary,
    slice_from_links,
    slice_to_links,
)

Note = Callable[[int, int], None]

_CHUNK = 1 << 20


class Layout(NamedTuple):
    """How links lie in a file: the extents (T, X, Y, Z), the rows of every matrix, 2 or 3, and the type of the floats."""

    extents: tuple[int, ...]
    rows: int
    floats: np.dtype

    @property
    def dtype(self) -> np.dtype:
        """complex64 or complex128."""
        return np.dtype(np.complex64 if self.floats.itemsize == 4 else np.complex128)

    @property
    def slice_bytes(self) -> int:
        x, y, z = self.extents[1:]
        return x * y * z * 4 * self.rows * 6 * self.floats.itemsize

    def require_size(self, path: Path, size: int, floats: str) -> None:
        """Raises FileError unless the links fill `size` bytes. `floats` says the precision in the words of the file."""
        if size != (needed := self.extents[0] * self.slice_bytes):
            raise FileError(
                f"{path} has {size} bytes of links, but {'x'.join(map(str, self.extents))} sites of {self.rows} rows in "
                f"{floats} need {needed}",
                "it is truncated or its header is damaged: fetch it again",
            )


class Sums:
    """Mean plaquette, link trace and distance from SU(3) of links whose time slices are added in order.

    `claims`: whether plaquette and link trace are wanted, both divided by 3; the plaquette takes most of the time.
    """

    def __init__(self, claims: bool = True):
        self._claims = claims
        self._worst = 0.0
        self._trace = self._plaquettes = 0.0
        self._links = 0
        self._first: Slice | None = None
        self._last: Slice | None = None

    def add(self, u: Slice) -> None:
        """The next time slice. It must not be changed later: the plaquettes need it with the one that follows."""
        self._worst = float(np.maximum(self._worst, deviation(u)))  # nan stays
        if not self._claims:
            return
        with np.errstate(over="ignore", invalid="ignore"):
            self._trace += sum(float(u[i, i].real.sum(dtype=np.float64)) for i in range(3))
        self._links += u[0, 0].size
        if self._last is None:
            self._first = u
        else:
            self._plaquettes = add_plaquettes(self._plaquettes, self._last, u)
        self._last = u

    @property
    def deviation(self) -> float:
        """The largest `link_order.deviation`; nan for non-finite links."""
        return self._worst

    @property
    def link_trace(self) -> float:
        return self._trace / (3 * self._links)

    @property
    def plaquette(self) -> float:
        assert self._first is not None and self._last is not None
        return add_plaquettes(self._plaquettes, self._last, self._first) / (3 * 6 * (self._links // 4))


class LinkStream(NamedTuple):
    """Links of a lattice (T, X, Y, Z), complex64 or complex128: the `slices` once, in order, and, when those are through,
    `sums` of all of them."""

    extents: tuple[int, ...]
    dtype: np.dtype
    slices: Iterable[Slice]
    sums: Callable[[], Sums]

    @staticmethod
    def of(links: LinkStream | np.ndarray, file: str) -> LinkStream:
        """A stream as it is; of an array `(3, 3, 4, T, X, Y, Z)` the time slices. Raises ValueError for other arrays, which the
        `file` cannot hold."""
        if isinstance(links, LinkStream):
            return links
        if links.ndim != 7 or links.shape[:3] != (3, 3, 4) or not np.iscomplexobj(links):
            raise ValueError(f"{file} holds complex links of shape (3, 3, 4, T, X, Y, Z), got {links.dtype} {links.shape}")
        slices = np.moveaxis(links, 3, 0)
        return LinkStream(links.shape[3:], links.dtype, slices, lambda: measured(slices))


def measured(slices: Iterable[Slice]) -> Sums:
    """The sums of all slices."""
    sums = Sums()
    for u in slices:
        sums.add(u)
    return sums


@runtime_checkable
class Checksum(Protocol):
    """A checksum that takes the bytes of the slices in order."""

    def add(self, data: memoryview) -> None: ...


@runtime_checkable
class LinkFile(Protocol):
    """A file that is open for reading and whose header was understood. `verify` raises FileError if the header states another
    checksum, or other sums, than were found."""

    path: Path
    stream: BinaryIO
    start: int
    layout: Layout
    states_claims: bool  # whether verify needs the claims of Sums

    def new_checksum(self) -> Any: ...  # a Checksum, or None if the file states none

    def verify(self, checksum: Any, sums: Sums) -> None: ...


F = TypeVar("F", bound=LinkFile)


@contextmanager
def opened(path: Path | str, understand: Callable[[Path, BinaryIO, int], F]) -> Iterator[F]:
    """The file, and how many bytes it has, for `understand`. Raises FileError if it cannot be read."""
    path = Path(path)
    with explained(path, "read"):
        stream = path.open("rb")
    with stream:
        with explained(path, "read"):
            file = understand(path, stream, os.fstat(stream.fileno()).st_size)
        yield file


def read_stream(
    file: LinkFile, *, claims: bool = False, reunitarise: bool = False, into: Links | None = None, note: Note | None = None
) -> LinkStream:
    """The links of an open file.

    The last slice comes only after everything was verified: whoever has them all has no damaged ones. FileError is raised
    instead if the file is damaged or, without `reunitarise`, further from SU(3) than `require_unitary` accepts. `claims`:
    whether plaquette and link trace will be asked for. `into` is filled, if it is given. `note` is told how many slices of how
    many have been read; what it raises ends the reading.
    """
    sums = Sums(file.states_claims or (claims and not reunitarise))
    layout = file.layout
    if not reunitarise:
        return LinkStream(layout.extents, layout.dtype, _verified(file, sums, True, into, note), lambda: sums)
    pulled = Sums(claims)
    slices = _pulled_back(_verified(file, sums, False, None, note), pulled, into)
    return LinkStream(layout.extents, layout.dtype, slices, lambda: pulled)


def read_links(file: LinkFile, reunitarise: bool, note: Note | None) -> Links:
    """All links of an open file. Raises FileError as `read_stream` does."""
    links = np.empty((3, 3, 4, *file.layout.extents), file.layout.dtype)
    for _ in read_stream(file, reunitarise=reunitarise, into=links, note=note).slices:
        pass
    return links


def raw_slices(file: LinkFile) -> Iterator[memoryview]:
    """The bytes of every time slice, in order, in one buffer: each is overwritten by the next."""
    data = memoryview(bytearray(file.layout.slice_bytes))
    for t in range(file.layout.extents[0]):
        with explained(file.path, "read"):
            file.stream.seek(file.start + t * len(data))
            found = file.stream.readinto(data)  # type: ignore[attr-defined]
        if found != len(data):
            raise FileError(f"{file.path} ends in time slice {t}", "it changed while it was read: read it again")
        yield data


def _verified(file: LinkFile, sums: Sums, unitary: bool, into: Links | None, note: Note | None) -> Iterator[Slice]:
    layout, checksum = file.layout, file.new_checksum()
    total = layout.extents[0]
    for t, data in enumerate(raw_slices(file)):
        if checksum is not None:
            checksum.add(data)
        u = np.empty((3, 3, 4, *layout.extents[1:]), layout.dtype) if into is None else into[:, :, :, t]
        slice_to_links(np.frombuffer(data, layout.floats), layout.rows, u)
        sums.add(u)
        if t + 1 == total:
            file.verify(checksum, sums)
            if unitary:
                require_unitary(file.path, sums.deviation, layout.dtype)
        if note is not None:
            note(t + 1, total)
        yield u


@jax.jit  # compiled once for all slices; operation by operation it would take a third of a second for each
def _project(u: Array) -> Array:
    return SUN(3).project(u)


def _pulled_back(slices: Iterable[Slice], sums: Sums, into: Links | None) -> Iterator[Slice]:
    for t, u in enumerate(slices):
        v = np.asarray(_project(u))
        sums.add(v)
        if into is not None:
            into[:, :, :, t] = v
        yield v


@runtime_checkable
class Frame(Protocol):
    """The texts of a file that is being written. `reserved` bytes are left in front, the expected length of the text there, for
    it may depend on the links. `finish` gives both texts, or raises FileError if the links should not be written."""

    layout: Layout
    reserved: int

    def add(self, u: Slice, data: memoryview) -> None: ...

    def finish(self) -> tuple[bytes, bytes]: ...


def write_slices(path: Path | str, slices: Iterable[Slice], frame: Frame) -> None:
    """Write a file, whole or not at all: not if `slices` or `frame` raise anything, either."""
    layout = frame.layout
    with replacing(path) as stream:
        stream.seek(frame.reserved)
        for u in slices:
            data = slice_from_links(u, layout.rows, layout.floats).view(np.uint8).data
            frame.add(u, data)
            stream.write(data)
        before, after = frame.finish()
        stream.write(after)
        _move(stream, frame.reserved, len(before))
        stream.seek(0)
        stream.write(before)


def _move(stream: BinaryIO, start: int, to: int) -> None:
    """Move everything from `start` on; the file ends where it ends then."""
    length = stream.seek(0, 2) - start
    if start == to:
        return
    chunks = range(0, length, _CHUNK)
    for at in chunks if to < start else reversed(chunks):  # nothing is overwritten before it was moved
        stream.seek(start + at)
        data = stream.read(min(_CHUNK, length - at))
        stream.seek(to + at)
        stream.write(data)
    stream.truncate(to + length)
