"""LIME files (USQCD c-lime): a sequence of records, grouped into messages.

A record is a header of 144 bytes, big-endian: the number 0x456789AB, the version 1 (16 bits), the flags (16 bits, of which the
highest says that the record begins a message, the next that it ends one), the length of the data (64 bits), and its type, up to
127 characters of text filled up with zeros. Then the data, filled up with zeros to a multiple of 8 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from latflow.errors import FileError

MAGIC = 0x456789AB
_HEADER = struct.Struct(">IHHQ128s")
_BEGINS, _ENDS = 0x8000, 0x4000
_FETCH = "it is truncated or damaged: fetch it again"


class Record(NamedTuple):
    """`data` is a view of the file's bytes. `begins` and `ends`: whether the record is the first, the last of its message."""

    kind: str
    data: memoryview | bytes
    begins: bool
    ends: bool


def is_lime(content: bytes | memoryview) -> bool:
    return len(content) >= 4 and struct.unpack_from(">I", content)[0] == MAGIC


def parse(path: Path | str, content: memoryview) -> list[Record]:
    """The records of a file. Written again by `pieces` they give the same bytes: whatever would not is an error.

    Raises FileError, which names the record by its place, for anything but a sequence of complete records in complete messages.
    """
    records: list[Record] = []
    at, inside = 0, False
    while at < len(content):
        where = f"record {len(records) + 1} of {path}"
        if len(content) - at < _HEADER.size:
            raise FileError(f"{where} has {len(content) - at} bytes where its header has {_HEADER.size}", _FETCH)
        magic, version, flags, length, name = _HEADER.unpack_from(content, at)
        if magic != MAGIC or version != 1:
            raise FileError(f"{where} begins with {magic:#x}, version {version}, instead of {MAGIC:#x}, version 1", _FETCH)
        if flags & ~(_BEGINS | _ENDS):
            raise FileError(f"{where} has the unknown flags {flags:#06x}", _FETCH)
        text, _, rest = name.partition(b"\0")
        if any(rest) or not text or len(text) == len(name) or not all(33 <= c < 127 for c in text):
            raise FileError(f"{where} has the damaged type {name.rstrip(bytes(1))!r}", _FETCH)
        begin, padded = at + _HEADER.size, length + -length % 8
        if padded > len(content) - begin:
            left = len(content) - begin
            raise FileError(f"{where} ({text.decode()}) claims {length} bytes, but {left} are left in the file", _FETCH)
        if any(content[begin + length : begin + padded]):
            raise FileError(f"{where} ({text.decode()}) is filled up with other bytes than zeros", _FETCH)
        begins, ends = bool(flags & _BEGINS), bool(flags & _ENDS)
        if begins == inside:
            raise FileError(f"{where} ({text.decode()}) {'begins' if begins else 'continues'} a message out of order", _FETCH)
        inside = not ends
        records.append(Record(text.decode(), content[begin : begin + length], begins, ends))
        at = begin + padded
    if inside or not records:
        raise FileError(f"{path} ends in the middle of a message, after {len(records)} records", _FETCH)
    return records


def pieces(records: Sequence[Record]) -> Iterator[bytes | memoryview]:
    """The bytes of a file, in order. Raises ValueError for types that are not 1 to 127 printable characters."""
    for kind, data, begins, ends in records:
        name = kind.encode("ascii")
        if not 0 < len(name) < 128:
            raise ValueError(f"a LIME type has 1 to 127 characters, got {kind!r}")
        yield _HEADER.pack(MAGIC, 1, begins * _BEGINS | ends * _ENDS, len(data), name)
        yield data
        yield bytes(-len(data) % 8)
