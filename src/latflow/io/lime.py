"""LIME files (USQCD c-lime): a sequence of records, grouped into messages.

A record is a header of 144 bytes, big-endian: the number 0x456789AB, the version 1 (16 bits), the flags (16 bits, of which the
highest says that the record begins a message, the next that it ends one), the length of the data (64 bits), and its type, up to
127 characters of text filled up with zeros. Then the data, filled up with zeros to a multiple of 8 bytes.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

from latflow.errors import FileError

MAGIC = 0x456789AB
_HEADER = struct.Struct(">IHHQ128s")
_BEGINS, _ENDS = 0x8000, 0x4000
_FETCH = "it is truncated or damaged: fetch it again"


class Record(NamedTuple):
    """`begins` and `ends`: whether the record is the first, the last of its message."""

    kind: str
    data: bytes
    begins: bool
    ends: bool


class Place(NamedTuple):
    """A record whose data are in a file, `length` bytes from `start` on."""

    kind: str
    start: int
    length: int
    begins: bool
    ends: bool

    def record(self, stream: BinaryIO, longest: int | None = None) -> Record:
        """With its data, or the first `longest` bytes of them."""
        stream.seek(self.start)
        length = self.length if longest is None else min(self.length, longest)
        return Record(self.kind, stream.read(length), self.begins, self.ends)


def is_lime(content: bytes) -> bool:
    return len(content) >= 4 and struct.unpack_from(">I", content)[0] == MAGIC


def places(path: Path | str, stream: BinaryIO, size: int) -> list[Place]:
    """The records of a file of `size` bytes. Written again they give the same bytes: whatever would not is an error.

    Raises FileError, which names the record by its place, for anything but a sequence of complete records in complete messages.
    """
    found: list[Place] = []
    at, inside = 0, False
    while at < size:
        where = f"record {len(found) + 1} of {path}"
        if size - at < _HEADER.size:
            raise FileError(f"{where} has {size - at} bytes where its header has {_HEADER.size}", _FETCH)
        magic, version, flags, length, name = _HEADER.unpack(_bytes(stream, at, _HEADER.size, where))
        if magic != MAGIC or version != 1:
            raise FileError(f"{where} begins with {magic:#x}, version {version}, instead of {MAGIC:#x}, version 1", _FETCH)
        if flags & ~(_BEGINS | _ENDS):
            raise FileError(f"{where} has the unknown flags {flags:#06x}", _FETCH)
        text, _, rest = name.partition(b"\0")
        if any(rest) or not text or len(text) == len(name) or not all(33 <= c < 127 for c in text):
            raise FileError(f"{where} has the damaged type {name.rstrip(bytes(1))!r}", _FETCH)
        begin, padded = at + _HEADER.size, length + -length % 8
        if padded > size - begin:
            left = size - begin
            raise FileError(f"{where} ({text.decode()}) claims {length} bytes, but {left} are left in the file", _FETCH)
        if any(_bytes(stream, begin + length, padded - length, where)):
            raise FileError(f"{where} ({text.decode()}) is filled up with other bytes than zeros", _FETCH)
        begins, ends = bool(flags & _BEGINS), bool(flags & _ENDS)
        if begins == inside:
            raise FileError(f"{where} ({text.decode()}) {'begins' if begins else 'continues'} a message out of order", _FETCH)
        inside = not ends
        found.append(Place(text.decode(), begin, length, begins, ends))
        at = begin + padded
    if inside or not found:
        raise FileError(f"{path} ends in the middle of a message, after {len(found)} records", _FETCH)
    return found


def _bytes(stream: BinaryIO, at: int, length: int, where: str) -> bytes:
    stream.seek(at)
    data = stream.read(length)
    if len(data) != length:
        raise FileError(f"{where} ends early", "the file changed while it was read: read it again")
    return data


def packed(record: Record) -> bytes:
    """The bytes of a record. Raises ValueError for a type that is not 1 to 127 printable characters."""
    return header(record, len(record.data)) + record.data + fill(len(record.data))


def header(record: Record, length: int) -> bytes:
    """The header of a record of `length` bytes of data, whatever `record.data`. Raises ValueError as `packed` does."""
    name = record.kind.encode("ascii")
    if not 0 < len(name) < 128:
        raise ValueError(f"a LIME type has 1 to 127 characters, got {record.kind!r}")
    return _HEADER.pack(MAGIC, 1, record.begins * _BEGINS | record.ends * _ENDS, length, name)


def fill(length: int) -> bytes:
    """What follows data of this length."""
    return bytes(-length % 8)
