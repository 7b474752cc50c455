"""How an ensemble lies in its file.

The file is HDF5 of the oldest format with contiguous datasets of a fixed capacity, so every row has a place of its own from
the start and HDF5's own structures never change while rows arrive. A crash therefore cannot leave a half-updated index, and
a row that is being written shares no checksum with a row that is finished, which is what goes wrong with chunked datasets.
The user block in front, which HDF5 ignores, holds what is needed to read and extend the file with plain positioned reads and
writes, and checksums for everything, because HDF5 itself would follow a flipped address or extent without noticing:

    bytes 0-15 magic, 16-31 version, length and CRC-32 of the header, size of the user block
    bytes 64-87 commit record: rows (int64), generation (int64), CRC-32 of the state slot, CRC-32 of the record
    from byte 128 the header: JSON of `Layout`
"""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from latflow.errors import DamagedFileError, FileError

MAGIC = b"latflow-ensemble"
FORMAT = "latflow-ensemble"
VERSION = 1
_PREFIX = struct.Struct("<16sIIII")
RECORD = struct.Struct("<qqII")
RECORD_AT = 64
_HEADER_AT = 128
_NAME = re.compile(r"[A-Za-z0-9_.+-]+(/[A-Za-z0-9_.+-]+)*")
_RESERVED = ("checksums", "state")


@dataclasses.dataclass(frozen=True)
class Column:
    """One quantity of every `every`-th row: an array `(rows // every, *shape)`."""

    shape: tuple[int, ...]
    dtype: str
    every: int = 1
    offset: int = -1
    checksums: int = -1

    @classmethod
    def of(cls, specification: Column | tuple) -> Column:
        """From a Column or a tuple (shape, dtype) or (shape, dtype, every)."""
        if isinstance(specification, Column):
            return specification
        shape, dtype, *every = specification
        return cls(tuple(int(n) for n in shape), np.dtype(dtype).newbyteorder("<").str, *every)

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def plain(self) -> tuple[tuple[int, ...], str, int]:
        """What the caller asked for, without the place in the file."""
        return self.shape, self.dtype, self.every


@dataclasses.dataclass(frozen=True)
class Slot:
    """An array of the state, stored twice: the writer fills one copy while the other stays valid."""

    shape: tuple[int, ...]
    dtype: str
    offsets: tuple[int, int] = (-1, -1)

    @classmethod
    def of(cls, specification: Slot | tuple) -> Slot:
        """From a Slot or a tuple (shape, dtype)."""
        if isinstance(specification, Slot):
            return specification
        shape, dtype = specification
        return cls(tuple(int(n) for n in shape), np.dtype(dtype).newbyteorder("<").str)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def plain(self) -> tuple[tuple[int, ...], str]:
        return self.shape, self.dtype


@dataclasses.dataclass(frozen=True)
class Layout:
    """The header: what the file is about, and where its columns lie."""

    kind: str
    theory: Any
    settings: Any
    metadata: Any
    capacity: int
    columns: dict[str, Column]
    state: dict[str, Slot]
    size: int = 0
    counter_at: int = 0
    structure_crc: int = 0

    def extents(self) -> list[tuple[int, int]]:
        """(offset, bytes) of everything that changes after creation, in order of offset."""
        pieces = [(self.counter_at, 8)]
        for column in self.columns.values():
            rows = self.capacity // column.every
            pieces += [(column.offset, rows * column.row_bytes), (column.checksums, 4 * rows)]
        for slot in self.state.values():
            pieces += [(offset, slot.nbytes) for offset in slot.offsets]
        return sorted(pieces)


def plan(kind: str, theory: Any, settings: Any, metadata: Any, columns: Mapping, state: Mapping, capacity: int) -> Layout:
    """A layout without places. Raises ValueError for impossible names and shapes."""
    every = {name: Column.of(column) for name, column in columns.items()}
    slots = {name: Slot.of(slot) for name, slot in state.items()}
    for name in [*every, *slots]:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot name a column; use letters, digits, _ . + - and /")
    for name, column in every.items():
        if name.split("/")[0] in _RESERVED:
            raise ValueError(f"column {name!r} begins with a reserved word ({', '.join(_RESERVED)})")
        if column.row_bytes == 0 or column.every < 1:
            raise ValueError(f"column {name!r} would be empty: shape {column.shape}, every {column.every}")
    for name, slot in slots.items():
        if slot.nbytes == 0:
            raise ValueError(f"state {name!r} would be empty: shape {slot.shape}")
    if capacity < 1:
        raise ValueError(f"capacity must be positive, got {capacity}")
    capacity = max([capacity, *(column.every for column in every.values())])
    theory, settings, metadata = (json.loads(json.dumps(value)) for value in (theory, settings, metadata))
    return Layout(kind, theory, settings, metadata, capacity, every, slots)


def create(path: Path, layout: Layout) -> Layout:
    """Write an empty file at `path` and return the layout with places. Raises OSError if there is no room."""
    block = 1 << max(12, (_HEADER_AT + 2 * len(_encode(layout)) + 1024).bit_length())
    placed, sentinel = _write_hdf5(path, layout, block)
    fd = os.open(path, os.O_RDWR)
    try:
        size = os.fstat(fd).st_size
        _reserve(fd, size)
        at = _find_once(fd, sentinel, placed, size)
        placed = dataclasses.replace(placed, size=size, counter_at=at)
        write_all(fd, bytes(8), at)
        placed = dataclasses.replace(placed, structure_crc=_structure_crc(fd, placed, block))
        header = _encode(placed)
        write_all(fd, header, _HEADER_AT)
        write_all(fd, _PREFIX.pack(MAGIC, VERSION, len(header), zlib.crc32(header), block), 0)
        write_all(fd, pack_record(0, 0, 0), RECORD_AT)
    finally:
        os.close(fd)
    return placed


def load(fd: int, path: Path) -> Layout:
    """The layout of an open file, after checking everything except the rows. Raises DamagedFileError or FileError."""
    size = os.fstat(fd).st_size
    prefix = os.pread(fd, _PREFIX.size, 0)
    foreign = FileError(f"{path} is not an ensemble written by latflow", "choose another file, or delete it to start afresh")
    if prefix[:16] != MAGIC[: len(prefix[:16])] or not prefix:
        raise foreign
    if len(prefix) < _PREFIX.size:
        raise damaged(path, "its header is cut off")
    _, version, length, crc, block = _PREFIX.unpack(prefix)
    header = os.pread(fd, min(length, size), _HEADER_AT)
    # The checksum of nothing is 0, so zeroed bytes would pass for an empty header.
    if not header or len(header) != length or zlib.crc32(header) != crc:
        raise damaged(path, "its header is altered or cut off")
    if version != VERSION:
        raise FileError(f"{path} has format version {version}, this latflow reads {VERSION}", "use the version that wrote it")
    layout = _decode(json.loads(header))
    if size < layout.size:
        raise damaged(path, f"it has {size} bytes instead of {layout.size}")
    if _structure_crc(fd, layout, block) != layout.structure_crc:
        raise damaged(path, "its HDF5 structure is altered")
    return layout


def damaged(path: Path, how: str) -> DamagedFileError:
    return DamagedFileError(f"{path} is damaged, {how}", "restore it from a copy, or delete it to draw it again")


def pack_record(rows: int, generation: int, state_crc: int) -> bytes:
    body = RECORD.pack(rows, generation, state_crc, 0)
    return body[:-4] + struct.pack("<I", zlib.crc32(body[:-4], 1))


def unpack_record(fd: int, layout: Layout, path: Path) -> tuple[int, int, int]:
    """(rows, generation, CRC of the state slot). Raises DamagedFileError."""
    data = os.pread(fd, RECORD.size, RECORD_AT)
    if len(data) == RECORD.size:
        rows, generation, state_crc, _ = RECORD.unpack(data)
        if data == pack_record(rows, generation, state_crc) and 0 <= rows <= layout.capacity:
            return rows, generation, state_crc
    raise damaged(path, "its row counter is altered")


def write_all(fd: int, data: Any, offset: int) -> None:
    """Positioned write of all of `data`."""
    view = memoryview(data)
    view = view.cast("B") if view.nbytes else view[:0]  # Python refuses to cast views of several axes that hold nothing
    while view.nbytes:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def read_all(fd: int, out: np.ndarray, offset: int) -> bool:
    """Positioned read that fills the contiguous array `out`; False if the file ends before."""
    view = memoryview(out.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    while view:
        count = os.preadv(fd, [view], offset)
        if count == 0:
            return False
        view, offset = view[count:], offset + count
    return True


def _write_hdf5(path: Path, layout: Layout, block: int) -> tuple[Layout, bytes]:
    """Create the datasets; returns the layout with their offsets and the random bytes standing for the counter."""
    import h5py

    create_list = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    create_list.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    create_list.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    sentinel = os.urandom(8)
    # The oldest object headers carry no checksum of their own, so the counter can be rewritten in place.
    with h5py.File(path, "w", libver=("earliest", "latest"), userblock_size=block) as file:

        def dataset(name: str, shape: tuple[int, ...], dtype: str) -> int:
            parent, _, last = name.rpartition("/")
            group = file.require_group(parent) if parent else file
            kind = h5py.h5t.py_create(np.dtype(dtype), logical=True)
            made = h5py.h5d.create(group.id, last.encode(), kind, h5py.h5s.create_simple(shape), create_list)
            return made.get_offset()

        file.attrs.update({"format": FORMAT, "version": VERSION, "kind": layout.kind, "capacity": layout.capacity})
        for name in ("theory", "settings", "metadata"):
            file.attrs[name] = json.dumps(getattr(layout, name))
        file.attrs["n_committed"] = np.frombuffer(sentinel, "<i8")[0]
        columns, state = {}, {}
        for name, column in layout.columns.items():
            rows = layout.capacity // column.every
            offset = dataset(name, (rows, *column.shape), column.dtype)
            columns[name] = dataclasses.replace(column, offset=offset, checksums=dataset(f"checksums/{name}", (rows,), "<u4"))
        for name, slot in layout.state.items():
            offsets = tuple(dataset(f"state/{i}/{name}", slot.shape, slot.dtype) for i in range(2))
            state[name] = dataclasses.replace(slot, offsets=offsets)
    return dataclasses.replace(layout, columns=columns, state=state, size=0, counter_at=0), sentinel


def _gaps(layout: Layout, block: int) -> list[tuple[int, int]]:
    """(start, stop) of the bytes between the extents: HDF5's own structures."""
    gaps, position = [], block
    for offset, length in layout.extents():
        if offset > position:
            gaps.append((position, offset))
        position = max(position, offset + length)
    if layout.size > position:
        gaps.append((position, layout.size))
    return gaps


def _structure_crc(fd: int, layout: Layout, block: int) -> int:
    crc = 0
    for start, stop in _gaps(layout, block):
        crc = zlib.crc32(os.pread(fd, stop - start, start), crc)
    return crc


def _find_once(fd: int, sentinel: bytes, layout: Layout, size: int) -> int:
    """Place of the counter among HDF5's structures."""
    places = []
    for start, stop in _gaps(dataclasses.replace(layout, size=size), 0):
        data = os.pread(fd, stop - start, start)
        places += [start + match.start() for match in re.finditer(re.escape(sentinel), data)]
    if len(places) != 1:
        raise OSError(f"the row counter was found {len(places)} times in a new HDF5 file")
    return places[0]


def _reserve(fd: int, size: int) -> None:
    """Claim the room now, so that a full disk is reported before the work and not in the middle of it."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (
            errno.EOPNOTSUPP,
            errno.EINVAL,
        ):  # not supported by this file system: space is then claimed as rows arrive
            raise


def _encode(layout: Layout) -> bytes:
    return json.dumps(dataclasses.asdict(layout)).encode()


def _decode(value: dict) -> Layout:
    columns = {name: Column(**{**c, "shape": tuple(c["shape"])}) for name, c in value["columns"].items()}
    state = {
        name: Slot(**{**s, "shape": tuple(s["shape"]), "offsets": tuple(s["offsets"])}) for name, s in value["state"].items()
    }
    return Layout(**{**value, "columns": columns, "state": state})
