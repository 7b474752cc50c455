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
from typing import TypeVar

import jax.numpy as jnp
import numpy as np

from latflow.errors import FileError
from latflow.groups import SUN
from latflow.io.atomic import write_bytes
from latflow.io.errors import explained
from latflow.io.link_order import Links, from_links, mean_plaquette, require_unitary, to_links

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


def read_nersc(path: Path | str, *, reunitarise: bool = False) -> NerscConfiguration:
    """The configuration in a file.

    Raises FileError, which names what disagrees, for an unknown header, a size that does not fit the dimensions, a wrong
    checksum, links further from SU(3) than 1e-6 (32 bit) or 1e-12 (64 bit) unless `reunitarise`, and a plaquette or link trace
    that is not that of the header.
    """
    path = Path(path)
    with explained(path, "read"):
        content = path.read_bytes()
    header, start = _header(path, content)
    rows, extents = _rows(path, header), _extents(path, header)
    expected = _checksum_of_header(path, header)
    floats = np.dtype(_choice(path, header, "FLOATING_POINT", _FLOATS))
    count = int(np.prod(extents)) * 4 * rows * 3 * 2
    if len(content) - start != count * floats.itemsize:
        raise FileError(
            f"{path} has {len(content) - start} bytes of links, but {'x'.join(map(str, extents))} sites of {rows} rows in "
            f"{header['FLOATING_POINT']} need {count * floats.itemsize}",
            "it is truncated or its header is damaged: fetch it again",
        )
    data = np.frombuffer(content, floats, count, start)
    if _checksum(data) != expected and not header["FLOATING_POINT"].endswith(("BIG", "LITTLE")):
        data = data.view(floats.newbyteorder())
    if (found := _checksum(data)) != expected:
        raise FileError(f"{path} has checksum {found:x}, its header says {expected:x}", "it is damaged: fetch it again")
    links = to_links(data, rows, extents)
    _require_claims(path, header, links)
    if not reunitarise:
        require_unitary(path, links)
    else:
        links = np.asarray(SUN(3).reunitarise(jnp.asarray(links))[0])
    return NerscConfiguration(links, header, data.dtype.newbyteorder("<") == data.dtype)


def write_nersc(
    path: Path | str,
    links: np.ndarray,
    *,
    like: NerscConfiguration | None = None,
    rows: int = 3,
    bits: int | None = None,
    little_endian: bool = False,
) -> None:
    """Write links `(3, 3, 4, T, X, Y, Z)`, whole or not at all.

    The format and the header lines of a configuration that was read (`like`) are kept, so that unchanged links give the same
    file bit for bit; for changed links the checksum, plaquette and link trace are new. Without one, `rows` (2 or 3), `bits` (32
    or 64; that of the links) and the endianness make a new header.

    Raises ValueError for other arguments and links of another shape, FileError for links further from SU(3) than `read_nersc`
    would accept and if the file cannot be written.
    """
    if links.ndim != 7 or links.shape[:3] != (3, 3, 4) or not np.iscomplexobj(links):
        raise ValueError(f"a NERSC file holds complex links of shape (3, 3, 4, T, X, Y, Z), got {links.dtype} {links.shape}")
    if like is None:
        bits = 4 * links.dtype.itemsize if bits is None else bits
        if rows not in (2, 3) or bits not in (32, 64):
            raise ValueError(f"a NERSC file has 2 or 3 rows and 32 or 64 bits, got rows={rows}, bits={bits}")
        lines = {
            "HDR_VERSION": "1.0",
            "DATATYPE": "4D_SU3_GAUGE_3x3" if rows == 3 else "4D_SU3_GAUGE",
            "STORAGE_FORMAT": "1.0",
            **{f"DIMENSION_{i}": str(links.shape[a]) for i, a in enumerate((4, 5, 6, 3), start=1)},
            "CHECKSUM": "0",
            "LINK_TRACE": "0",
            "PLAQUETTE": "0",
            **{f"BOUNDARY_{i}": "PERIODIC" for i in range(1, 5)},
            "FLOATING_POINT": f"IEEE{bits}{'LITTLE' if little_endian else 'BIG'}",
        }
    else:
        lines, little_endian = dict(like.header), like.little_endian
    path = Path(path)
    rows, extents = _rows(path, lines), _extents(path, lines)
    if extents != links.shape[3:]:
        raise ValueError(f"the header is of the lattice {extents}, the links are of {links.shape[3:]}")
    floats = np.dtype(_choice(path, lines, "FLOATING_POINT", _FLOATS)).newbyteorder("<" if little_endian else ">")
    data = from_links(links, rows, floats)
    if _checksum(data) != int(lines["CHECKSUM"], 16):
        require_unitary(path, links)
        trace, mean = _claims(links)
        lines |= {"CHECKSUM": f"{_checksum(data):x}", "LINK_TRACE": f"{trace:.10g}", "PLAQUETTE": f"{mean:.10g}"}
    text = "".join(f"{key} = {value}\n" for key, value in lines.items()).encode("latin-1")
    write_bytes(path, _BEGIN + text + _END + data.tobytes())


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


def _rows(path: Path, header: Mapping[str, str]) -> int:
    return _choice(path, header, "DATATYPE", _ROWS)


def _extents(path: Path, header: Mapping[str, str]) -> tuple[int, ...]:
    x, y, z, t = (_number(path, header, f"DIMENSION_{i}", int) for i in range(1, 5))
    if min(x, y, z, t) < 1:
        raise FileError(f"{path} has dimensions {(x, y, z, t)}", "they must be positive: the header is damaged")
    return t, x, y, z


def _checksum_of_header(path: Path, header: Mapping[str, str]) -> int:
    return _number(path, header, "CHECKSUM", lambda text: int(text, 16))


def _checksum(data: np.ndarray) -> int:
    words = data.view(np.dtype("u4").newbyteorder(data.dtype.byteorder))
    return int(words.sum(dtype=np.uint64)) & 0xFFFFFFFF


def _claims(links: Links) -> tuple[float, float]:
    """(link trace, mean plaquette), both divided by 3."""
    trace = sum(links[i, i].real.mean(dtype=np.float64) for i in range(3)) / 3
    return float(trace), mean_plaquette(links)


def _require_claims(path: Path, header: Mapping[str, str], links: Links) -> None:
    for key, found in zip(("LINK_TRACE", "PLAQUETTE"), _claims(links), strict=True):
        claimed = _number(path, header, key, float)
        mantissa, _, exponent = header[key].strip().lower().partition("e")
        resolution = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
        rounding = 1e-5 if links.dtype == np.complex64 else 1e-8
        if not abs(found - claimed) <= resolution + rounding:
            raise FileError(f"{path} has {key} {found:.10g}, its header says {claimed:.10g}", "it is damaged: fetch it again")
