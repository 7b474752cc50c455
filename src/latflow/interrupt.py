"""Stopping on request: SIGINT and SIGTERM become a flag that long loops poll where nothing would be lost."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from latflow.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequested:
    """Context in which SIGINT and SIGTERM set a flag instead of ending the process; true once one has arrived.

    A second signal raises KeyboardInterrupt at once, for a user who does not want to wait. Outside the main thread, where
    Python allows no handlers, the flag is set only by `request`.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequested:
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._handle) for s in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        self._previous = {}

    def __bool__(self) -> bool:
        return self.signum is not None

    def request(self, signum: int = signal.SIGTERM) -> None:
        """Ask the loops to stop, as a signal would."""
        self.signum = int(signum)

    def check(self, done: str) -> None:
        """Raise Interrupted if a stop was requested. `done` says how far the loop came, such as "512 of 4096 samples"."""
        if self.signum is not None:
            name = signal.Signals(self.signum).name
            raise Interrupted(
                f"stopped by {name} after {done}", "everything up to there is saved; run it again to continue", self.signum
            )

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum


def check(stop: StopRequested | None, done: str) -> None:
    """`stop.check(done)`, or nothing where the caller did not ask for interruption."""
    if stop is not None:
        stop.check(done)
