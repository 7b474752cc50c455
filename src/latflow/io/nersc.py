"""SU(3) gauge configurations in the NERSC archive format (QCD archive format of the Gauge Connection, 3x3 or two rows).

A text header between BEGIN_HEADER and END_HEADER, then binary links: sites with x fastest and t slowest, at each site the
directions x, y, z, t, each a matrix by rows (all three, or the first two, of which the third is the conjugate cross product),
each entry a pair of floats of 32 or 64 bits of either endianness. CHECKSUM is the sum of all 32-bit words modulo 2^32.

Here direction 0 is t and 1, 2, 3 are x, y, z, in the links as in the lattice axes: `(3, 3, 4, T, X, Y, Z)`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from latflow.errors import FileError
from latflow.io.link_order import Links, Slice, require_unitary
from latflow.io.slices import Layout, LinkStream, Note, Sums, opened, raw_slices, read_links, write_slices

T = TypeVar("T")

_BEGIN, _END = b"BEGIN_HEADER\n", b"END_HEADER\n"
_LONGEST_HEADER = 1 << 16
_ROWS = {"4D_SU3_GAUGE": 2, "4D_SU3_GAUGE_3x3": 3, "4D_SU3_GAUGE_3X3": 3}
# without a suffix the archive means big-endian, but not every code followed; the checksum decides
_FLOATS = {"IEEE32BIG": ">f4", "IEEE32LITTLE": "<f4", "IEEE64BIG": ">f8", "IEEE64LITTLE": "<f8"}
_FLOATS |= {"IEEE32": ">f4", "IEEE64": ">f8"}


@dataclasses.dataclass(frozen=True)
class NerscConfiguration:
    """Links, complex64 or complex128 as the file has them, the lines of the header as they stood, and the byte order of the
    floats, which not every header states."""

    links: Links
    header: Mapping[str, str]
    little_endian: bool

    @property
    def lattice(self) -> tuple[int, ...]:
        """(T, X, Y, Z)."""
        return self.links.shape[3:]


class NerscFile:
    """A NERSC file that is open for reading, a `slices.LinkFile`: its header was understood, its links not yet read.

    `header` and `little_endian` as in `NerscConfiguration`.
    """

    states_claims = True

    def __init__(self, path: Path, stream: BinaryIO, size: int):
        self.path, self.stream = path, stream
        self.header, self.start = _header(path, stream.read(_LONGEST_HEADER))
        self.layout = _layout(path, self.header)
        self._expected = _number(path, self.header, "CHECKSUM", lambda text: int(text, 16))
        self._claims = {key: _number(path, self.header, key, float) for key in ("LINK_TRACE", "PLAQUETTE")}
        self.layout.require_size(path, size - self.start, self.header["FLOATING_POINT"].strip())
        if not self.header["FLOATING_POINT"].strip().endswith(("BIG", "LITTLE")):
            self._find_byte_order()

    @property
    def little_endian(self) -> bool:
        return self.layout.floats.newbyteorder("<") == self.layout.floats

    def new_checksum(self) -> NerscChecksum:
        return NerscChecksum(self.layout.floats)

    def verify(self, checksum: NerscChecksum, sums: Sums) -> None:
        if checksum.value != self._expected:
            raise FileError(
                f"{self.path} has checksum {checksum.value:x}, its header says {self._expected:x}",
                "it is damaged: fetch it again",
            )
        for (key, claimed), found in zip(self._claims.items(), (sums.link_trace, sums.plaquette), strict=True):
            mantissa, _, exponent = self.header[key].strip().lower().partition("e")
            resolution = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
            rounding = 1e-5 if self.layout.dtype == np.complex64 else 1e-8
            if not abs(found - claimed) <= resolution + rounding:
                raise FileError(
                    f"{self.path} has {key} {found:.10g}, its header says {claimed:.10g}", "it is damaged: fetch it again"
                )

    def _find_byte_order(self) -> None:
        """Reads all links once: what the checksum is of, tells."""
        checksum = self.new_checksum()
        for data in raw_slices(self):
            checksum.add(data)
        if checksum.value != self._expected:
            self.layout = self.layout._replace(floats=self.layout.floats.newbyteorder())


def read_nersc(path: Path | str, *, reunitarise: bool = False, note: Note | None = None) -> NerscConfiguration:
    """The configuration in a file. `note` is told how many of how many time slices have been read.

    Raises FileError, which names what disagrees, for an unknown header, a size that does not fit the dimensions, a wrong
    checksum, links further from SU(3) than 1e-6 (32 bit) or 1e-12 (64 bit) unless `reunitarise`, and a plaquette or link trace
    that is not that of the header.
    """
    with opened(path, NerscFile) as file:
        return NerscConfiguration(read_links(file, reunitarise, note), file.header, file.little_endian)


def write_nersc(
    path: Path | str,
    links: np.ndarray | LinkStream,
    *,
    like: NerscConfiguration | NerscFile | None = None,
    rows: int = 3,
    bits: int | None = None,
    little_endian: bool = False,
) -> None:
    """Write links `(3, 3, 4, T, X, Y, Z)`, or time slices of them, whole or not at all.

    The format and the header lines of a configuration that was read (`like`) are kept, so that unchanged links give the same
    file bit for bit; for changed links the checksum, plaquette and link trace are new. Without one, `rows` (2 or 3), `bits` (32
    or 64; that of the links) and the endianness make a new header.

    Raises ValueError for other arguments and links of another shape, FileError for links further from SU(3) than `read_nersc`
    would accept and if the file cannot be written.
    """
    links = LinkStream.of(links, "a NERSC file")
    path = Path(path)
    if like is None:
        bits = 4 * links.dtype.itemsize if bits is None else bits
        if rows not in (2, 3) or bits not in (32, 64):
            raise ValueError(f"a NERSC file has 2 or 3 rows and 32 or 64 bits, got rows={rows}, bits={bits}")
        t, x, y, z = links.extents
        lines = {
            "HDR_VERSION": "1.0",
            "DATATYPE": "4D_SU3_GAUGE_3x3" if rows == 3 else "4D_SU3_GAUGE",
            "STORAGE_FORMAT": "1.0",
            **{f"DIMENSION_{i}": str(extent) for i, extent in enumerate((x, y, z, t), start=1)},
            "CHECKSUM": "0",
            "LINK_TRACE": "0",
            "PLAQUETTE": "0",
            **{f"BOUNDARY_{i}": "PERIODIC" for i in range(1, 5)},
            "FLOATING_POINT": f"IEEE{bits}{'LITTLE' if little_endian else 'BIG'}",
        }
    else:
        lines, little_endian = dict(like.header), like.little_endian
    layout = _layout(path, lines)
    if layout.extents != links.extents:
        raise ValueError(f"the header is of the lattice {layout.extents}, the links are of {links.extents}")
    layout = layout._replace(floats=layout.floats.newbyteorder("<" if little_endian else ">"))
    write_slices(path, links.slices, _Frame(path, layout, lines, links, None if like is None else int(lines["CHECKSUM"], 16)))


class _Frame:
    """The header before the links, a `slices.Frame`. `checksum`: of the links that the lines are of."""

    def __init__(self, path: Path, layout: Layout, lines: dict[str, str], links: LinkStream, checksum: int | None):
        self.layout = layout
        self._path, self._lines, self._links, self._checksum = path, lines, links, checksum
        self._found = NerscChecksum(layout.floats)
        self.reserved = len(self._text(lines))

    def add(self, u: Slice, data: memoryview) -> None:
        self._found.add(data)

    def finish(self) -> tuple[bytes, bytes]:
        if self._found.value != self._checksum:
            sums = self._links.sums()
            require_unitary(self._path, sums.deviation, self._links.dtype)
            trace, mean = f"{sums.link_trace:.10g}", f"{sums.plaquette:.10g}"
            self._lines |= {"CHECKSUM": f"{self._found.value:x}", "LINK_TRACE": trace, "PLAQUETTE": mean}
        return self._text(self._lines), b""

    def _text(self, lines: Mapping[str, str]) -> bytes:
        return _BEGIN + "".join(f"{key} = {value}\n" for key, value in lines.items()).encode("latin-1") + _END


class NerscChecksum:
    """The sum of all 32-bit words modulo 2^32, in the byte order of the floats, slice by slice."""

    def __init__(self, floats: np.dtype):
        self._words = np.dtype("u4").newbyteorder(floats.byteorder)
        self.value = 0

    def add(self, data: memoryview) -> None:
        """The next bytes."""
        self.value = (self.value + int(np.frombuffer(data, self._words).sum(dtype=np.uint64))) & 0xFFFFFFFF


def _header(path: Path, content: bytes) -> tuple[dict[str, str], int]:
    if not content.startswith(_BEGIN):
        raise FileError(f"{path} is not a NERSC file: it does not begin with BEGIN_HEADER", "check the path and the format")
    end = content.find(b"\n" + _END, 0, _LONGEST_HEADER)
    if end < 0:
        raise FileError(f"the header of {path} has no END_HEADER", "it is truncated or damaged: fetch it again")
    header = {}
    for line in content[len(_BEGIN) : end].decode("latin-1").split("\n"):
        match = re.fullmatch(r"(\w+) = (.*)", line)
        if match is None or match[1] in header:
            raise FileError(f"the header of {path} has the line {line!r}", 'every line should be a new "KEY = value"')
        header[match[1]] = match[2]
    return header, end + 1 + len(_END)


def _choice(path: Path, header: Mapping[str, str], key: str, known: Mapping[str, T]) -> T:
    value = _entry(path, header, key).strip()
    if value not in known:
        raise FileError(f"{path} has {key} = {value}", f"known are {', '.join(known)}")
    return known[value]


def _entry(path: Path, header: Mapping[str, str], key: str) -> str:
    if key not in header:
        raise FileError(f"the header of {path} has no {key}", "it is damaged or of another format")
    return header[key]


def _number(path: Path, header: Mapping[str, str], key: str, convert):
    text = _entry(path, header, key).strip()
    try:
        return convert(text)
    except ValueError as error:
        raise FileError(f"{path} has {key} = {text}", "that is not a number: the header is damaged") from error


def _layout(path: Path, header: Mapping[str, str]) -> Layout:
    rows = _choice(path, header, "DATATYPE", _ROWS)
    extents = _extents(path, header)
    return Layout(extents, rows, np.dtype(_choice(path, header, "FLOATING_POINT", _FLOATS)))


def _extents(path: Path, header: Mapping[str, str]) -> tuple[int, ...]:
    x, y, z, t = (_number(path, header, f"DIMENSION_{i}", int) for i in range(1, 5))
    if min(x, y, z, t) < 1:
        raise FileError(f"{path} has dimensions {(x, y, z, t)}", "they must be positive: the header is damaged")
    return t, x, y, z
