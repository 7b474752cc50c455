"""SU(3) gauge configurations of the International Lattice Data Grid: LIME files with big-endian links.

The record `ildg-format` (XML, ILDG binary file format 1.2) states the precision and the extents, `ildg-binary-data` holds the
links in the order of `link_order`, 3x3, `scidac-checksum` (XML, as QIO writes it) two sums over the CRC-32 c_r of the bytes of
site r: suma = XOR of c_r rotated left by r mod 29 bits, sumb likewise by r mod 31. Other records are kept as they are.
"""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from latflow.errors import FileError
from latflow.io import lime
from latflow.io.link_order import Links, Slice, deviation, require_unitary
from latflow.io.slices import Layout, LinkStream, Note, Sums, opened, read_links, write_slices

_FORMAT, _DATA, _CHECKSUM = "ildg-format", "ildg-binary-data", "scidac-checksum"
_LONGEST_XML = 1 << 16
_NAMESPACE = "http://www.lqcd.org/ildg"

_R = TypeVar("_R", lime.Record, lime.Place)


@dataclasses.dataclass(frozen=True)
class IldgConfiguration:
    """Links, complex64 or complex128 as the file has them, `checksum` (suma, sumb), verified, or None if the file states none,
    and the records of the file, that of the links without its data."""

    links: Links
    checksum: tuple[int, int] | None
    records: Sequence[lime.Record]

    @property
    def lattice(self) -> tuple[int, ...]:
        """(T, X, Y, Z)."""
        return self.links.shape[3:]


class IldgFile:
    """An ILDG file that is open for reading, a `slices.LinkFile`: its records were understood, its links not yet read.

    `records` and `checksum` as in `IldgConfiguration`, but the checksum is not yet verified.
    """

    states_claims = False

    def __init__(self, path: Path, stream: BinaryIO, size: int):
        self.path, self.stream = path, stream
        if not size:
            raise FileError(f"{path} is empty", "fetch it again")
        if not lime.is_lime(stream.read(4)):
            raise FileError(f"{path} is not an ILDG file: it does not begin as LIME files do", "check the path and the format")
        places = lime.places(path, stream, size)
        bits, extents = _format(path, _text(stream, _one(path, places, _FORMAT)))
        data = _one(path, places, _DATA)
        self.start = data.start
        self.layout = Layout(extents, 3, np.dtype(f">f{bits // 8}"))
        self.layout.require_size(path, data.length, f"{bits} bits")
        self.checksum: tuple[int, int] | None = None
        if any(place.kind == _CHECKSUM for place in places):
            self.checksum = _stated(path, _text(stream, _one(path, places, _CHECKSUM)))
        self.records = [
            lime.Record(_DATA, b"", place.begins, place.ends) if place.kind == _DATA else place.record(stream)
            for place in places
        ]
        found = [r.kind for r in self.records if len(r.data) <= _LONGEST_XML and b"<suma>" in r.data]
        if found and self.checksum is None:
            raise FileError(f"{path} has checksums in a record of the type {found[0]}", "its type is damaged: fetch it again")

    def new_checksum(self) -> ScidacChecksum | None:
        return None if self.checksum is None else ScidacChecksum(self.layout)

    def verify(self, checksum: ScidacChecksum | None, sums: Sums) -> None:
        if checksum is not None and self.checksum is not None and (found := checksum.sums) != self.checksum:
            raise FileError(
                f"{self.path} has checksums {found[0]:x} and {found[1]:x}, it states {self.checksum[0]:x} and "
                f"{self.checksum[1]:x}",
                "it is damaged: fetch it again",
            )


def read_ildg(path: Path | str, *, reunitarise: bool = False, note: Note | None = None) -> IldgConfiguration:
    """The configuration in a file. `note` is told how many of how many time slices have been read.

    Raises FileError, which names what disagrees, for a damaged container, another kind of field, a size that does not fit the
    dimensions, a wrong checksum, and links further from SU(3) than 1e-6 (32 bit) or 1e-12 (64 bit) unless `reunitarise`. A file
    without a checksum is read, and says so by `checksum`.
    """
    with opened(path, IldgFile) as file:
        return IldgConfiguration(read_links(file, reunitarise, note), file.checksum, file.records)


def write_ildg(
    path: Path | str,
    links: np.ndarray | LinkStream,
    *,
    like: IldgConfiguration | IldgFile | None = None,
    bits: int | None = None,
) -> None:
    """Write links `(3, 3, 4, T, X, Y, Z)`, or time slices of them, whole or not at all.

    The records of a configuration that was read (`like`) are kept, so that unchanged links give the same file bit for bit; for
    changed links the checksum is new. Without one, `bits` (32 or 64; that of the links) makes new records.

    Raises ValueError for other arguments and links of another shape, FileError for links further from SU(3) than `read_ildg`
    would accept and if the file cannot be written.
    """
    links = LinkStream.of(links, "an ILDG file")
    path = Path(path)
    if like is None:
        bits = 4 * links.dtype.itemsize if bits is None else bits
        if bits not in (32, 64):
            raise ValueError(f"an ILDG file has 32 or 64 bits, got bits={bits}")
        records = [
            lime.Record(_FORMAT, _format_xml(bits, links.extents), True, False),
            lime.Record(_DATA, b"", False, False),
            lime.Record(_CHECKSUM, b"", False, True),
        ]
    else:
        records = list(like.records)
        _one(path, records, _DATA)
        bits, extents = _format(path, _one(path, records, _FORMAT))
        if extents != links.extents:
            raise ValueError(f"the records are of the lattice {extents}, the links are of {links.extents}")
    layout = Layout(links.extents, 3, np.dtype(f">f{bits // 8}"))
    write_slices(path, links.slices, _Frame(path, layout, records, None if like is None else like.checksum))


class _Frame:
    """The records before and after the links, a `slices.Frame`. `checksum`: what the records state already."""

    def __init__(self, path: Path, layout: Layout, records: list[lime.Record], checksum: tuple[int, int] | None):
        self.layout = layout
        self._path, self._records, self._checksum = path, records, checksum
        self._found = ScidacChecksum(layout)
        self._worst, self._dtype = 0.0, np.dtype(np.complex64)
        self.reserved = len(self._texts()[0])

    def add(self, u: Slice, data: memoryview) -> None:
        self._found.add(data)
        if self.layout.dtype == np.complex64:
            u = u.astype(np.complex64, copy=False)  # what a reader of the file will find
        self._worst, self._dtype = float(np.maximum(self._worst, deviation(u))), u.dtype  # nan stays

    def finish(self) -> tuple[bytes, bytes]:
        require_unitary(self._path, self._worst, self._dtype)
        if self._found.sums != self._checksum:
            new = _checksum_xml(*self._found.sums)
            self._records = [r._replace(data=new) if r.kind == _CHECKSUM else r for r in self._records]
        return self._texts()

    def _texts(self) -> tuple[bytes, bytes]:
        at = next(i for i, record in enumerate(self._records) if record.kind == _DATA)
        length = self.layout.extents[0] * self.layout.slice_bytes
        before = [*map(lime.packed, self._records[:at]), lime.header(self._records[at], length)]
        return b"".join(before), b"".join([lime.fill(length), *map(lime.packed, self._records[at + 1 :])])


class ScidacChecksum:
    """(suma, sumb) of the bytes of the links, sites in file order, slice by slice."""

    def __init__(self, layout: Layout):
        self._site = 4 * layout.rows * 6 * layout.floats.itemsize
        self._sites = 0
        self.sums = (0, 0)

    def add(self, data: memoryview) -> None:
        """The next bytes, of whole sites."""
        size, crc32 = self._site, zlib.crc32
        count = len(data) // size
        crc = np.fromiter((crc32(data[i : i + size]) for i in range(0, len(data), size)), np.uint32, count)
        rank = np.arange(self._sites, self._sites + count, dtype=np.uint64)
        suma, sumb = (_folded(crc, (rank % np.uint64(modulus)).astype(np.uint32)) for modulus in (29, 31))
        self._sites += count
        self.sums = self.sums[0] ^ suma, self.sums[1] ^ sumb


def _folded(crc: np.ndarray, shift: np.ndarray) -> int:
    rotated = (crc << shift) | np.where(shift > 0, crc >> ((np.uint32(32) - shift) % np.uint32(32)), np.uint32(0))
    return int(np.bitwise_xor.reduce(rotated))


def _text(stream: BinaryIO, place: lime.Place) -> lime.Record:
    """A record that should be short XML; of a longer one, enough to see that it is longer."""
    return place.record(stream, _LONGEST_XML + 1)


def _one(path: Path | str, records: Sequence[_R], kind: str) -> _R:
    found = [record for record in records if record.kind == kind]
    if len(found) != 1:
        there = ", ".join(dict.fromkeys(record.kind for record in records))
        raise FileError(
            f"{path} has {len(found)} records {kind}, not one; there are {there}", "it is damaged or of another format"
        )
    return found[0]


def _tags(path: Path | str, record: lime.Record) -> dict[str, str]:
    """{tag without its namespace: text} of the children of the root."""
    text = bytes(record.data[:_LONGEST_XML]).rstrip(b"\0")
    try:
        if len(record.data) > _LONGEST_XML or b"<!" in text:
            raise ET.ParseError("document type declarations and long documents are refused")
        root = ET.fromstring(text)
    except (ET.ParseError, ValueError, LookupError) as error:
        raise FileError(f"the record {record.kind} of {path} is not valid XML ({error})", "fetch it again") from error
    out: dict[str, str] = {}
    for child in root:
        tag = child.tag.rpartition("}")[2]
        if tag in out:
            raise FileError(f"the record {record.kind} of {path} states {tag} twice", "fetch it again")
        out[tag] = (child.text or "").strip()
    return out


def _stated_number(path: Path | str, record: lime.Record, tags: dict[str, str], tag: str, pattern: str, base: int) -> int:
    if not re.fullmatch(pattern, tags.get(tag, "")):
        raise FileError(f"the record {record.kind} of {path} has {tag} = {tags.get(tag)!r}", "it is damaged: fetch it again")
    return int(tags[tag], base)


def _format(path: Path | str, record: lime.Record) -> tuple[int, tuple[int, ...]]:
    """(bits, (T, X, Y, Z))."""
    tags = _tags(path, record)
    if tags.get("field") != "su3gauge":
        raise FileError(f"{path} holds the field {tags.get('field')!r}", "only su3gauge is known")
    bits = _stated_number(path, record, tags, "precision", "32|64", 10)
    x, y, z, t = (_stated_number(path, record, tags, f"l{axis}", "[1-9][0-9]{0,5}", 10) for axis in "xyzt")
    return bits, (t, x, y, z)


def _stated(path: Path | str, record: lime.Record) -> tuple[int, int]:
    tags = _tags(path, record)
    suma, sumb = (_stated_number(path, record, tags, tag, "[0-9a-fA-F]{1,8}", 16) for tag in ("suma", "sumb"))
    return suma, sumb


def _format_xml(bits: int, extents: tuple[int, ...]) -> bytes:
    t, x, y, z = extents
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><ildgFormat xmlns="{_NAMESPACE}" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        f'xsi:schemaLocation="{_NAMESPACE} {_NAMESPACE}/filefmt.xsd"><version>1.0</version><field>su3gauge</field>'
        f"<precision>{bits}</precision><lx>{x}</lx><ly>{y}</ly><lz>{z}</lz><lt>{t}</lt></ildgFormat>"
    ).encode()


def _checksum_xml(suma: int, sumb: int) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?><scidacChecksum><version>1.0</version>'
        f"<suma>{suma:x}</suma><sumb>{sumb:x}</sumb></scidacChecksum>"
    ).encode()
