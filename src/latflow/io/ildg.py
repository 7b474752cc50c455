"""SU(3) gauge configurations of the International Lattice Data Grid: LIME files with big-endian links.

The record `ildg-format` (XML, ILDG binary file format 1.2) states the precision and the extents, `ildg-binary-data` holds the
links in the order of `link_order`, 3x3, `scidac-checksum` (XML, as QIO writes it) two sums over the CRC-32 c_r of the bytes of
site r: suma = XOR of c_r rotated left by r mod 29 bits, sumb likewise by r mod 31. Other records are kept as they are.
"""

from __future__ import annotations

import dataclasses
import mmap
import re
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from latflow.errors import FileError
from latflow.groups import SUN
from latflow.io import lime
from latflow.io.atomic import write_pieces
from latflow.io.errors import explained
from latflow.io.link_order import Links, from_links, require_unitary, to_links

_FORMAT, _DATA, _CHECKSUM = "ildg-format", "ildg-binary-data", "scidac-checksum"
_LONGEST_XML = 1 << 16
_NAMESPACE = "http://www.lqcd.org/ildg"


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


def read_ildg(path: Path | str, *, reunitarise: bool = False) -> IldgConfiguration:
    """The configuration in a file.

    Raises FileError, which names what disagrees, for a damaged container, another kind of field, a size that does not fit the
    dimensions, a wrong checksum, and links further from SU(3) than 1e-6 (32 bit) or 1e-12 (64 bit) unless `reunitarise`. A file
    without a checksum is read, and says so by `checksum`.
    """
    path = Path(path)
    with explained(path, "read"), path.open("rb") as stream:
        if not stream.seek(0, 2):
            raise FileError(f"{path} is empty", "fetch it again")
        content = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    if not lime.is_lime(content):
        raise FileError(f"{path} is not an ILDG file: it does not begin as LIME files do", "check the path and the format")
    records = lime.parse(path, content)
    bits, extents = _format(path, _one(path, records, _FORMAT))
    data = _one(path, records, _DATA).data
    sites = int(np.prod(extents))
    if len(data) != sites * 72 * bits // 8:
        raise FileError(
            f"{path} has {len(data)} bytes of links, but {'x'.join(map(str, extents))} sites in {bits} bits need "
            f"{sites * 72 * bits // 8}",
            "it is truncated or its header is damaged: fetch it again",
        )
    checksum = None
    if any(record.kind == _CHECKSUM for record in records):
        checksum = _stated(path, _one(path, records, _CHECKSUM))
        if (found := scidac_checksum(data, sites)) != checksum:
            raise FileError(
                f"{path} has checksums {found[0]:x} and {found[1]:x}, it states {checksum[0]:x} and {checksum[1]:x}",
                "it is damaged: fetch it again",
            )
    elif found := [r.kind for r in records if len(r.data) <= _LONGEST_XML and b"<suma>" in bytes(r.data)]:
        raise FileError(f"{path} has checksums in a record of the type {found[0]}", "its type is damaged: fetch it again")
    links = to_links(np.frombuffer(data, f">f{bits // 8}"), 3, extents)
    if reunitarise:
        links = np.asarray(SUN(3).reunitarise(jnp.asarray(links))[0])
    else:
        require_unitary(path, links)
    kept = [record._replace(data=b"" if record.kind == _DATA else bytes(record.data)) for record in records]
    return IldgConfiguration(links, checksum, kept)


def write_ildg(path: Path | str, links: np.ndarray, *, like: IldgConfiguration | None = None, bits: int | None = None) -> None:
    """Write links `(3, 3, 4, T, X, Y, Z)`, whole or not at all.

    The records of a configuration that was read (`like`) are kept, so that unchanged links give the same file bit for bit; for
    changed links the checksum is new. Without one, `bits` (32 or 64; that of the links) makes new records.

    Raises ValueError for other arguments and links of another shape, FileError for links further from SU(3) than `read_ildg`
    would accept and if the file cannot be written.
    """
    if links.ndim != 7 or links.shape[:3] != (3, 3, 4) or not np.iscomplexobj(links):
        raise ValueError(f"an ILDG file holds complex links of shape (3, 3, 4, T, X, Y, Z), got {links.dtype} {links.shape}")
    path = Path(path)
    if like is None:
        bits = 4 * links.dtype.itemsize if bits is None else bits
        if bits not in (32, 64):
            raise ValueError(f"an ILDG file has 32 or 64 bits, got bits={bits}")
        records = [
            lime.Record(_FORMAT, _format_xml(bits, links.shape[3:]), True, False),
            lime.Record(_DATA, b"", False, False),
            lime.Record(_CHECKSUM, b"", False, True),
        ]
    else:
        records = list(like.records)
        bits, extents = _format(path, _one(path, records, _FORMAT))
        if extents != links.shape[3:]:
            raise ValueError(f"the records are of the lattice {extents}, the links are of {links.shape[3:]}")
    require_unitary(path, links.astype(np.complex64) if bits == 32 else links)
    data = from_links(links, 3, np.dtype(f">f{bits // 8}")).view(np.uint8).data
    sums = scidac_checksum(data, int(np.prod(links.shape[3:])))
    for i, record in enumerate(records):
        if record.kind == _DATA:
            records[i] = record._replace(data=data)
        elif record.kind == _CHECKSUM and (like is None or like.checksum != sums):
            records[i] = record._replace(data=_checksum_xml(*sums))
    write_pieces(path, lime.pieces(records))


def scidac_checksum(data: memoryview | bytes, sites: int) -> tuple[int, int]:
    """(suma, sumb) of the bytes of all links, sites in file order."""
    size = len(data) // sites
    crc32 = zlib.crc32
    crc = np.fromiter((crc32(data[i : i + size]) for i in range(0, len(data), size)), np.uint32, sites)
    rank = np.arange(sites, dtype=np.uint32)
    return _folded(crc, rank % np.uint32(29)), _folded(crc, rank % np.uint32(31))


def _folded(crc: np.ndarray, shift: np.ndarray) -> int:
    rotated = (crc << shift) | np.where(shift > 0, crc >> ((np.uint32(32) - shift) % np.uint32(32)), np.uint32(0))
    return int(np.bitwise_xor.reduce(rotated))


def _one(path: Path | str, records: Sequence[lime.Record], kind: str) -> lime.Record:
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
