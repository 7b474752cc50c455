"""Configuration files of any known format, told apart by their first bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from latflow.errors import FileError
from latflow.io import lime
from latflow.io.errors import explained
from latflow.io.ildg import IldgConfiguration, read_ildg, write_ildg
from latflow.io.nersc import NerscConfiguration, read_nersc, write_nersc

Configuration = NerscConfiguration | IldgConfiguration
Format = Literal["nersc", "ildg"]


def format_of(path: Path | str) -> Format:
    """Raises FileError for files of neither kind."""
    path = Path(path)
    with explained(path, "read"), path.open("rb") as stream:
        start = stream.read(16)
    if lime.is_lime(start):
        return "ildg"
    if start.startswith(b"BEGIN_HEADER"):
        return "nersc"
    raise FileError(
        f"{path} is neither a NERSC nor an ILDG configuration", "check the path; those are the formats that are read"
    )


def read_configuration(path: Path | str, *, reunitarise: bool = False) -> Configuration:
    """The configuration in a NERSC or ILDG file. Raises FileError as `read_nersc` and `read_ildg` do."""
    return (read_nersc if format_of(path) == "nersc" else read_ildg)(path, reunitarise=reunitarise)


def write_configuration(
    path: Path | str, found: Configuration, *, format: Format, bits: int | None = None, rows: int | None = None
) -> None:
    """Write what was read in a format: in its own, with neither `bits` nor `rows` changed, headers and records are kept.

    Raises ValueError for impossible combinations, FileError if the file cannot be written.
    """
    if format == "ildg":
        if rows not in (None, 3):
            raise ValueError(f"an ILDG file holds whole matrices, not {rows} rows")
        keep = isinstance(found, IldgConfiguration) and bits in (None, 4 * found.links.dtype.itemsize)
        if keep:
            write_ildg(path, found.links, like=found)  # type: ignore[arg-type]
        else:
            write_ildg(path, found.links, bits=bits)
    elif isinstance(found, NerscConfiguration) and bits is None and rows is None:
        write_nersc(path, found.links, like=found)
    else:
        write_nersc(path, found.links, bits=bits, rows=3 if rows is None else rows)
