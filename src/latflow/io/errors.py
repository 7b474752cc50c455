"""From operating-system errors and unequal descriptions to messages that say what to do."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from latflow.errors import DiskFullError, FileError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ABSENT = object()


def file_error(path: Path | str, doing: str, error: OSError) -> FileError:
    """The FileError for an OSError met while `doing` ("write", "read") something with `path`."""
    cause = f"cannot {doing} {path}"
    code = error.errno
    if code is None:  # HDF5 reports the system's number only inside its text
        code = next((c for c in _FULL if f"errno = {c}," in str(error)), None)
    if code in _FULL:
        why = "the quota or the file-size limit is reached" if code != errno.ENOSPC else "the disk is full"
        return DiskFullError(f"{cause}, {why}", "free some space and run it again; what was saved before is intact")
    if code == errno.ENOENT:
        return FileError(f"{cause}, it does not exist", "check the path")
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return FileError(f"{cause}, permission denied", "change its permissions or choose another directory")
    if code in (errno.EISDIR, errno.ENOTDIR):
        return FileError(f"{cause}, {error.strerror}", "check the path")
    return FileError(f"{cause}, {error.strerror or error}", "check the disk and run it again")


@contextmanager
def explained(path: Path | str, doing: str) -> Iterator[None]:
    """Turns OSError inside the block into FileError."""
    try:
        yield
    except OSError as error:
        raise file_error(path, doing, error) from error


def differences(found: Any, expected: Any, prefix: str = "") -> list[str]:
    """Lines "key is A there and B here" for every entry in which two JSON-like values differ."""
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        keys = [*found, *(k for k in expected if k not in found)]
        pairs = [(f"{prefix}.{k}" if prefix else str(k), found.get(k, _ABSENT), expected.get(k, _ABSENT)) for k in keys]
        return [line for key, a, b in pairs for line in differences(a, b, key)]
    if found is not _ABSENT and expected is not _ABSENT and _plain(found) == _plain(expected):
        return []
    return [f"{prefix or 'value'} is {_show(found)} there and {_show(expected)} here"]


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _show(value: Any) -> str:
    return "absent" if value is _ABSENT else _plain(value)
