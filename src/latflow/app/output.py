"""What goes where: one JSON document or the human summary on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, TextIO


class Output:
    """Keeps stdout for the result. While `guard` is active, whatever libraries print there arrives on stderr instead."""

    def __init__(self, as_json: bool, quiet: bool = False):
        self.as_json = as_json
        self.quiet = quiet
        self._stdout: TextIO | None = None

    @contextlib.contextmanager
    def guard(self) -> Iterator[Output]:
        sys.stdout.flush()
        try:
            saved = os.dup(1)
        except OSError:  # no stdout at all
            yield self
            return
        python_stdout = sys.stdout
        self._stdout = os.fdopen(saved, "w", encoding="utf-8", errors="replace")
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        try:
            yield self
        finally:
            sys.stdout = python_stdout
            self._stdout.flush()
            os.dup2(self._stdout.fileno(), 1)
            self._stdout.close()
            self._stdout = None

    @property
    def stream(self) -> TextIO:
        return self._stdout or sys.stdout

    def emit(self, document: dict[str, Any]) -> None:
        """Write the one JSON document."""
        self.stream.write(json.dumps(plain(document), indent=2) + "\n")
        self.stream.flush()

    def text(self, text: str) -> None:
        """Write the human result."""
        self.stream.write(text + "\n")
        self.stream.flush()

    def note(self, text: str) -> None:
        """Tell the user something on the way."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)


def silence_background() -> None:
    """Keep tracebacks of libraries' threads off the terminal: what matters of them is raised where it can be explained."""
    sys.excepthook = lambda *_: None
    threading.excepthook = lambda _: None
    sys.unraisablehook = lambda _: None
    logging.getLogger("absl").setLevel(logging.CRITICAL)


def plain(value: Any) -> Any:
    """The same document of JSON types: numpy scalars and arrays become numbers and lists, non-finite numbers null."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "tolist") and not isinstance(value, str | bytes):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
