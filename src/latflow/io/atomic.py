"""Small files that are replaced whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from latflow.io.errors import explained


def write_bytes(path: Path | str, data: bytes) -> None:
    """Replace `path` by `data` so that a reader, or a crash at any moment, meets the old content or the new.

    Raises FileError (DiskFullError); the old file is then untouched.
    """
    write_pieces(path, [data])


def write_pieces(path: Path | str, pieces: Iterable[bytes | memoryview]) -> None:
    """`write_bytes` of all pieces, one after the other."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    with explained(path, "write"):
        try:
            with partial.open("wb") as stream:
                for data in pieces:
                    stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
        except OSError:
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
