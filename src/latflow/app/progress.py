"""Progress on stderr: live bars and curves on a terminal, a line now and then elsewhere, nothing with --quiet."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from latflow.errors import Interrupted
from latflow.interrupt import StopRequested

_EVERY_SECONDS = 10.0
_PATIENCE = 2.0  # seconds after which a command that is usually quick says how far it is
_BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: list[float], width: int = 48) -> str:
    """A curve in one line of text. Non-finite values leave gaps."""
    if len(values) > width:
        values = [values[i * len(values) // width] for i in range(width)]
    finite = [v for v in values if abs(v) < float("inf")]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((v - low) * scale)] if abs(v) < float("inf") else " " for v in values)


def duration(seconds: float) -> str:
    """1:02:03, or 2:03."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def per_second(rate: float) -> str:
    """1,020/s, 4.14/s, 0.0943/s."""
    return f"{rate:,.0f}/s" if rate >= 100 else f"{rate:.3g}/s"


class Progress:
    """Progress of one stage towards `total`; `curves` names the numbers that are drawn over time, and nothing is shown of what
    takes less than `after` seconds."""

    def __init__(
        self, title: str, total: int, done: int = 0, curves: tuple[str, ...] = (), quiet: bool = False, after: float = 0.0
    ):
        self.title = title
        self.total = total
        self.done = done
        self.curves: dict[str, list[float]] = {name: [] for name in curves}
        self.numbers: dict[str, Any] = {}
        self._quiet = quiet
        self._first = done
        self._started = self._printed = time.monotonic()
        self._after = after
        if after:
            self._printed += after - _EVERY_SECONDS
        self._live: Any = None

    def __enter__(self) -> Progress:
        self._show()
        return self

    def _show(self) -> None:
        """Begin to draw, on a terminal, once there was something to wait for."""
        if self._live is None and not self._quiet and self._waited() and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(get_renderable=self._render, console=Console(stderr=True), refresh_per_second=4)
            self._live.__enter__()

    def _waited(self) -> bool:
        return time.monotonic() - self._started >= self._after

    def __exit__(self, *exc: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*exc)
        elif not self._quiet and self.done > self._first and self._waited():
            print(self._line(), file=sys.stderr, flush=True)

    def update(self, done: int, numbers: Mapping[str, Any] | None = None) -> None:
        """`done` of `total`, with the numbers to show beside it."""
        self.done = done
        self.numbers = dict(numbers or self.numbers)
        for name, values in self.curves.items():
            if isinstance(value := self.numbers.get(name), int | float):
                values.append(float(value))
        self._show()
        now = time.monotonic()
        if self._live is None and not self._quiet and now - self._printed > _EVERY_SECONDS:
            self._printed = now
            print(self._line(), file=sys.stderr, flush=True)

    def _rate(self) -> float:
        elapsed = time.monotonic() - self._started
        return (self.done - self._first) / elapsed if elapsed > 0 else 0.0

    def _line(self) -> str:
        rate = self._rate()
        left = f", {duration((self.total - self.done) / rate)} left" if rate > 0 and self.done < self.total else ""
        numbers = "".join(f"  {name} {value:.4g}" for name, value in self.numbers.items() if isinstance(value, int | float))
        return f"{self.title:<9} {self.done}/{self.total}{numbers}  {per_second(rate)}{left}"

    def _render(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        rate = self._rate()
        left = duration((self.total - self.done) / rate) if rate > 0 else "-:--"
        head = Table.grid(padding=(0, 1))
        head.add_row(
            Text(f"{self.title:<9}", style="bold"),
            ProgressBar(total=max(self.total, 1), completed=self.done, width=32),
            Text(f"{self.done}/{self.total}  {per_second(rate)}  {left} left", style="dim"),
        )
        rows: list[Any] = [head]
        for name, values in self.curves.items():
            if values:
                rows.append(Text.assemble((f"  {name:<7} ", "dim"), (sparkline(values), "cyan"), f" {values[-1]:.4g}"))
        rest = [(k, v) for k, v in self.numbers.items() if k not in self.curves and isinstance(v, int | float)]
        if rest:
            rows.append(Text("  " + "  ".join(f"{name} {value:.4g}" for name, value in rest), style="dim"))
        return Group(*rows)


@contextlib.contextmanager
def slices_of(title: str, otherwise: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Progress through a configuration file, if it takes longer than two seconds: the block tells the function how many time
    slices of how many are done. SIGINT and SIGTERM end it there with Interrupted, which says `otherwise`."""
    with StopRequested() as stop, Progress(title, 0, quiet=quiet, after=_PATIENCE) as progress:

        def note(done: int, total: int) -> None:
            progress.total = total
            progress.update(done)
            if stop.signum is not None:
                name = signal.Signals(stop.signum).name
                raise Interrupted(
                    f"stopped by {name} after {done} of {total} time slices", f"{otherwise}; run it again", stop.signum
                )

        yield note
