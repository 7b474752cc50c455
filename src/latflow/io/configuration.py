"""Configuration files of any known format, told apart by their first bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np

from latflow.errors import FileError
from latflow.io import lime
from latflow.io.atomic import partial_of
from latflow.io.errors import explained
from latflow.io.ildg import IldgConfiguration, IldgFile, read_ildg, write_ildg
from latflow.io.nersc import NerscConfiguration, NerscFile, read_nersc, write_nersc
from latflow.io.slices import LinkStream, Note, opened, read_stream

Configuration = NerscConfiguration | IldgConfiguration
ConfigurationFile = NerscFile | IldgFile
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


def read_configuration(path: Path | str, *, reunitarise: bool = False, note: Note | None = None) -> Configuration:
    """The configuration in a NERSC or ILDG file. `note` is told how many of how many time slices have been read; what it raises
    ends the reading. Raises FileError as `read_nersc` and `read_ildg` do."""
    return (read_nersc if format_of(path) == "nersc" else read_ildg)(path, reunitarise=reunitarise, note=note)


@contextmanager
def open_configuration(path: Path | str) -> Iterator[ConfigurationFile]:
    """A NERSC or ILDG file for `slices.read_stream`, which needs memory for a few time slices. Raises FileError for damage of
    what stands around the links."""
    with opened(path, NerscFile if format_of(path) == "nersc" else IldgFile) as file:
        yield file


def write_configuration(
    path: Path | str, found: Configuration, *, format: Format, bits: int | None = None, rows: int | None = None
) -> None:
    """Write what was read in a format: in its own, with neither `bits` nor `rows` changed, headers and records are kept.

    Raises ValueError for impossible combinations, FileError if the file cannot be written.
    """
    _write(path, found.links, found, format, bits, rows)


def convert_configuration(
    source: Path | str,
    destination: Path | str,
    *,
    format: Format,
    bits: int | None = None,
    rows: int | None = None,
    reunitarise: bool = False,
    note: Note | None = None,
) -> tuple[int, ...]:
    """`write_configuration` of what `read_configuration` finds, in memory for a few time slices; the file is the same bit for
    bit. Returns (T, X, Y, Z).

    The destination appears when the whole source has been verified, or not at all. `note` is told how many of how many time
    slices are done; what it raises ends the conversion. Raises ValueError and FileError as those two do.
    """
    if Path(source).resolve() == partial_of(destination).resolve():
        raise ValueError(f"{source} is where {destination} would be kept while it is written; rename it first")
    with open_configuration(source) as file:
        links = read_stream(file, claims=format == "nersc", reunitarise=reunitarise, note=note)
        _write(destination, links, file, format, bits, rows)
    return links.extents


def _write(
    path: Path | str,
    links: np.ndarray | LinkStream,
    found: Configuration | ConfigurationFile,
    format: Format,
    bits: int | None,
    rows: int | None,
) -> None:
    if format == "ildg":
        if rows not in (None, 3):
            raise ValueError(f"an ILDG file holds whole matrices, not {rows} rows")
        keep = isinstance(found, IldgConfiguration | IldgFile) and bits in (None, 4 * links.dtype.itemsize)
        if keep:
            write_ildg(path, links, like=found)  # type: ignore[arg-type]
        else:
            write_ildg(path, links, bits=bits)
    elif isinstance(found, NerscConfiguration | NerscFile) and bits is None and rows is None:
        write_nersc(path, links, like=found)
    else:
        write_nersc(path, links, bits=bits, rows=3 if rows is None else rows)
