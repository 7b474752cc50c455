"""Errors that a user can do something about. Their text names the cause and the remedy, and no traceback is needed."""

from __future__ import annotations


class LatflowError(Exception):
    """A problem with a cause (what is wrong) and a remedy (what to do). The command line prints it and exits with status 2."""

    def __init__(self, cause: str, remedy: str = ""):
        super().__init__(f"{cause}: {remedy}" if remedy else cause)
        self.cause = cause
        self.remedy = remedy


class FileError(LatflowError):
    """A file cannot be read or written."""


class DamagedFileError(FileError):
    """A file exists but is truncated, altered or of another format."""


class MismatchError(FileError):
    """A file is intact but belongs to another theory, model or setting."""


class DiskFullError(FileError):
    """There is no room left (device, quota or file-size limit)."""


class LockedError(FileError):
    """Another process is using the file or directory."""


class Interrupted(LatflowError):
    """A signal asked the run to stop, and it stopped at a point from which it can be resumed.

    `signum` is the signal, so that the command line can exit with 128 + signum.
    """

    def __init__(self, cause: str, remedy: str = "", signum: int = 15):
        super().__init__(cause, remedy)
        self.signum = signum
