"""Faults that tests inject: a full disk, an altered bit."""

from __future__ import annotations

import resource
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file_size_limit(size: int):
    """A stand-in for a full disk: the system refuses to extend any file beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def flip(path: Path, position: int, bit: int = 3) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)
