"""One process per run directory."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path

from latflow.errors import LockedError
from latflow.io.errors import explained


class RunLock:
    """Exclusive lock on a run directory, as a context manager.

    It is a `flock` on `directory/.lock`, which the kernel releases however the process ends, so nothing stale can stay behind;
    the file's text only tells others who holds it. Raises LockedError if another process has it, FileError if the directory
    cannot be written.
    """

    def __init__(self, directory: Path | str):
        self.path = Path(directory) / ".lock"
        self._fd: int | None = None

    def __enter__(self) -> RunLock:
        with explained(self.path, "write"):
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            with explained(self.path, "lock"):
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise LockedError(
                        f"{self.path.parent} is in use by {_holder(fd)}",
                        "wait until it ends, or choose another directory with --out",
                    ) from None
                owner = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
                os.ftruncate(fd, 0)
                os.pwrite(fd, owner.encode(), 0)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None


def _holder(fd: int) -> str:
    try:
        owner = json.loads(os.pread(fd, 4096, 0))
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
