"""Files that are replaced whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from latflow.io.errors import explained


def write_bytes(path: Path | str, data: bytes) -> None:
    """Replace `path` by `data` so that a reader, or a crash at any moment, meets the old content or the new.

    Raises FileError (DiskFullError); the old file is then untouched.
    """
    write_pieces(path, [data])


def write_pieces(path: Path | str, pieces: Iterable[bytes | memoryview]) -> None:
    """`write_bytes` of all pieces, one after the other."""
    with replacing(path) as stream:
        for data in pieces:
            stream.write(data)


def partial_of(path: Path | str) -> Path:
    """Where the content of `path` is while it is being written."""
    path = Path(path)
    return path.with_name(path.name + ".partial")


@contextmanager
def replacing(path: Path | str) -> Iterator[BinaryIO]:
    """A new file to write and read, which becomes `path` when the block is left, and nothing if by an exception.

    Raises FileError (DiskFullError); the old file is then untouched.
    """
    path, partial = Path(path), partial_of(path)
    with explained(path, "write"):
        try:
            with partial.open("w+b") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
        except BaseException:  # an interruption leaves no half a file either
            partial.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def write_text(path: Path | str, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode())


def write_json(path: Path | str, value: Any) -> None:
    """`write_text` of indented JSON. Raises ValueError for NaN and infinities, which JSON has no word for."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sync_directory(directory: Path) -> None:
    """Make a rename inside `directory` durable."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
