"""Small figures that follow the page: matplotlib draws with stand-in colours, the SVG refers to the page's CSS variables.

Every panel has the same size (440 x 300 page units), so that one panel fills a phone and two fill a desk: text is never
scaled away. Nothing here touches pyplot or global settings.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.ticker import AutoMinorLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from latflow.app.report.numbers import minus, power_of_ten

WIDTH, HEIGHT = 440, 300
INK, MUTED, GRID, FLOW, BASELINE, EXACT = (f"#01020{k}" for k in range(6))
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", FLOW: "flow", BASELINE: "baseline", EXACT: "exact"}
_NUMBER = re.compile(r"-?\d+\.\d{2,}(?:e[-+]?\d+)?")
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "latflow",
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.xmargin": 0.0,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 4,
    "ytick.major.size": 0,
    "xtick.minor.size": 2,
    "xtick.major.pad": 4,
    "ytick.major.pad": 5,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "path.simplify": True,
    "path.simplify_threshold": 0.2,
}


@dataclass(frozen=True)
class Panel:
    """One figure of the page: heading, drawing, what it shows for those who cannot see it, and what to look at."""

    slug: str
    title: str
    svg: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Canvas:
    """An open drawing; `ratio` is the lower axes of a figure that has one."""

    figure: Figure
    axes: Axes
    ratio: Axes | None

    def svg(self, slug: str) -> str:
        """The drawing as inline SVG whose ids start with `slug`."""
        buffer = io.StringIO()
        self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        return _inline(buffer.getvalue(), slug)


@contextmanager
def canvas(x: str, y: str, ratio: str | None = None) -> Iterator[Canvas]:
    """Axes labelled `x` below and `y` above their top left corner; `ratio` labels an extra pair of axes underneath."""
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
        figure.patch.set_visible(False)
        left, right, top, bottom = 54 / WIDTH, 1 - 14 / WIDTH, 1 - 30 / HEIGHT, 44 / HEIGHT
        lower = None
        if ratio is None:
            axes = figure.add_axes((left, bottom, right - left, top - bottom))
        else:
            split = 100 / HEIGHT
            lower = figure.add_axes((left, bottom, right - left, split - bottom))
            axes = figure.add_axes((left, split + 36 / HEIGHT, right - left, top - split - 36 / HEIGHT), sharex=lower)
            axes.tick_params(labelbottom=False)
            _label_above(lower, ratio)
        _label_above(axes, y)
        (lower or axes).set_xlabel(x, labelpad=5)
        for each in (axes, lower):
            if each is not None:
                each.patch.set_visible(False)
                each.spines["left"].set_visible(False)
                plain_ticks(each)
        yield Canvas(figure, axes, lower)


def _label_above(axes: Axes, text: str) -> None:
    # Horizontal labels are read without tilting the head; they start where the tick labels do.
    axes.annotate(text, (0, 1), (-54, 12), "axes fraction", "offset points", ha="left", va="baseline", color=MUTED)


def plain_ticks(axes: Axes) -> None:
    """Few ticks on both axes, written without offsets and exponents."""
    for axis, number in ((axes.xaxis, 6), (axes.yaxis, 5)):
        axis.set_major_locator(MaxNLocator(number, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(_plain))
        axis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_locator(AutoMinorLocator(2))


def _plain(value: float, _: object) -> str:
    size = abs(value)
    if size >= 1e6:
        return minus(f"{value / 1e6:g}M")
    if size >= 1e4:
        return minus(f"{value / 1e3:g}k")
    if 0 < size < 1e-4:
        exponent = math.floor(math.log10(size))
        return minus(f"{round(value / 10**exponent, 6):g}·") + power_of_ten(exponent)
    return minus(f"{round(value, 10):g}")


def log_ticks(axes: Axes, axis: str) -> None:
    """Make `axis` ("x" or "y") logarithmic with powers of ten written as a reader writes them."""
    axes.set_xscale("log") if axis == "x" else axes.set_yscale("log")
    which = axes.xaxis if axis == "x" else axes.yaxis
    low, high = which.get_data_interval()
    which.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if 0 < high < 30 * low else (1.0,), numticks=6))
    which.set_major_formatter(FuncFormatter(_power))
    which.set_minor_formatter(NullFormatter())
    if axis == "y":
        which.set_minor_locator(NullLocator())


def _power(value: float, _: object) -> str:
    exponent = math.floor(math.log10(value) + 1e-9) if value > 0 else 0
    if -3 <= exponent <= 3:
        return f"{value:g}"
    mantissa = round(value / 10.0**exponent)
    return power_of_ten(exponent) if mantissa == 1 else f"{mantissa}·{power_of_ten(exponent)}"


def dots(axes: Axes, x: np.ndarray, y: np.ndarray, color: str, size: float = 2.4, alpha: float = 0.45) -> None:
    """A cloud of points as one path of zero-length strokes with round caps: 20 bytes a point, and colour by variable."""
    vertices = np.repeat(np.stack([x, y], axis=1), 2, axis=0)
    outline = Outline(vertices, np.tile(np.array([Outline.MOVETO, Outline.LINETO], dtype=np.uint8), len(x)))
    outline.should_simplify = False
    axes.add_patch(PathPatch(outline, facecolor="none", edgecolor=color, linewidth=size, capstyle="round", alpha=alpha))


def robust_limits(
    values: np.ndarray, low: float = 0.0, high: float = 1.0, include: Sequence[float | None] = ()
) -> tuple[float, float]:
    """Axis limits with a margin around the quantiles `low` to `high` of the finite `values` and all numbers of `include`."""
    finite = values[np.isfinite(values)]
    ends = [float(np.quantile(finite, low)), float(np.quantile(finite, high))] if finite.size else [0.0, 1.0]
    ends += [float(value) for value in include if value is not None]
    margin = 0.06 * (max(ends) - min(ends)) or 0.5
    return min(ends) - margin, max(ends) + margin


def _inline(document: str, slug: str) -> str:
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", svg)
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'\bid="([^"]*)"', rf'id="{slug}-\1"', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{slug}-", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r' transform="rotate\(-?0 [^"]*"', "", svg)
    svg = re.sub(r' (?:d|x|y|width|height|transform)="[^"]*"', lambda match: _NUMBER.sub(_short, match[0]), svg)
    svg = re.sub(r"M (\S+ \S+) *\n?L \1 *(?=[\nM\"])", r"M\1h0", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return re.sub(r"\s*\n\s*", "\n", svg).strip()


def _short(match: re.Match[str]) -> str:
    text = f"{float(match[0]):.1f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text
