"""The two chains against each other: autocorrelation functions, and distributions with their ratio."""

# ruff: noqa: RUF001  (the page is typeset: true minus signs, dashes and Greek letters)

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from latflow.app.report.comparison import flow_label
from latflow.app.report.drawing import BASELINE, FLOW, INK, Panel, canvas
from latflow.app.report.numbers import baseline_label, capital, count, quantity, significant, uncertain
from latflow.app.report.run_data import RunData
from latflow.app.report.series import Autocorrelation, autocorrelation, block_length, common_edges
from latflow.statistics import Histogram, histogram, ratio

_CORRELATED = ("q", "q2", "magnetisation", "abs_magnetisation", "plaquette", "phi2", "polyakov", "action_density")
# Functions of another observable, configuration by configuration.
_SAME = {"action_density": "plaquette", "wilson_loop_1x1": "plaquette", "chi_top": "q2", "magnetisation2": "abs_magnetisation"}
_SAME |= {"magnetisation4": "abs_magnetisation", "q4": "q2"}
_DISTRIBUTED = ("plaquette", "magnetisation", "q", "abs_magnetisation", "action_density", "polyakov")


def autocorrelation_panels(run: RunData) -> list[Panel]:
    """Up to four observables, slow ones first, each with the functions of both chains and their windows."""
    panels = []
    for name in _chosen(run, _CORRELATED, _SAME):
        ours, theirs = _both(run, name)
        found = [(flow_label(run), FLOW, ours), (baseline_label(run.baseline_kind), BASELINE, theirs)]
        functions = [(who, color, autocorrelation(series)) for who, color, series in found if series is not None]
        drawn = [(who, color, function) for who, color, function in functions if function is not None]
        if drawn:
            panels.append(_autocorrelation(name, drawn, [who for who, _, function in functions if function is None]))
    return panels


def _autocorrelation(name: str, functions: list[tuple[str, str, Autocorrelation]], silent: list[str]) -> Panel:
    slug = f"acf-{name.replace('_', '-')}"
    longest = min(max(max(3 * f.window, 12) for _, _, f in functions), max(int(f.lags[-1]) for _, _, f in functions))
    lowest = 0.0
    with canvas("separation in steps", "autocorrelation") as drawing:
        for _, color, function in functions:
            inside = function.lags <= longest
            lags, rho, error = function.lags[inside].astype(float), function.rho[inside], function.error[inside]
            drawing.axes.fill_between(lags, rho - error, rho + error, color=color, alpha=0.18, linewidth=0)
            drawing.axes.plot(lags, rho, color=color)
            drawing.axes.plot([function.window], [0.0], marker="^", markersize=8, color=color, clip_on=False, linestyle="none")
            lowest = min(lowest, float((rho - error).min()))
        drawing.axes.axhline(0.0, color=INK, linewidth=0.7)
        drawing.axes.set_xlim(0.0, float(longest))
        drawing.axes.set_ylim(max(lowest, -0.4) - 0.06, 1.02)
        svg = drawing.svg(slug)
    times = [f"{who} τ = {uncertain(f.tau_int, f.tau_int_error)}" for who, _, f in functions]
    caption = "; ".join(times) + " steps." + "".join(f" The {who} series never changes, so it has no τ." for who in silent)
    return Panel(slug, capital(quantity(name)), svg, f"Autocorrelation of {quantity(name)}: {caption}", caption)


def distribution_panels(run: RunData) -> list[Panel]:
    """Histograms of up to four observables with the ratio of flow chain to baseline underneath."""
    panels = []
    for name in _chosen(run, _DISTRIBUTED, _SAME | {"q2": "q"}):
        ours, theirs = _both(run, name)
        present = [series for series in (ours, theirs) if series is not None and np.all(np.isfinite(series))]
        if present and np.ptp(np.concatenate([series.ravel() for series in present])) > 0.0:
            panels.append(_distribution(run, name, ours, theirs))
    return panels


def _distribution(
    run: RunData, name: str, ours: Float[np.ndarray, "proposals 1"] | None, theirs: Float[np.ndarray, "steps chains"] | None
) -> Panel:
    edges = common_edges([series for series in (ours, theirs) if series is not None])
    slug = f"distribution-{name.replace('_', '-')}"
    flow = None if ours is None else _histogram(ours, edges, seed=1)
    baseline = None if theirs is None else _histogram(theirs, edges, seed=2)
    ratio_label = f"{flow_label(run)} / {baseline_label(run.baseline_kind)}"
    with canvas(quantity(name), "probability density", ratio_label if flow and baseline else None) as drawing:
        centres = 0.5 * (edges[1:] + edges[:-1])
        if flow:
            steps = np.append(flow.density, flow.density[-1])
            drawing.axes.fill_between(edges, steps, step="post", color=FLOW, alpha=0.24, linewidth=0)
            low, high = flow.density - flow.density_error, flow.density + flow.density_error
            drawing.axes.bar(centres, high - low, 0.999 * np.diff(edges), low, color=FLOW, alpha=0.3, linewidth=0)
            drawing.axes.stairs(flow.density, edges, color=FLOW, linewidth=1.2, baseline=None)
        if baseline:
            points: dict[str, Any] = {"fmt": "o", "markersize": 3, "color": BASELINE, "elinewidth": 1.1}
            drawing.axes.errorbar(centres, baseline.density, baseline.density_error, **points)
        drawing.axes.set_ylim(
            0.0, 1.06 * max(float((each.density + each.density_error).max()) for each in (flow, baseline) if each)
        )
        drawing.axes.set_xlim(edges[0], edges[-1])
        caption = "There is no baseline to compare with." if flow else "The flow chain does not exist yet."
        if flow and baseline and drawing.ratio is not None:
            caption = _draw_ratio(drawing.ratio, centres, flow, baseline)
        svg = drawing.svg(slug)
    return Panel(slug, capital(quantity(name)), svg, f"Distribution of {quantity(name)} in both chains. {caption}", caption)


def _histogram(series: Float[np.ndarray, "steps chains"], edges: Float[np.ndarray, " edges"], seed: int) -> Histogram:
    measured = autocorrelation(series)
    tau_int = 0.5 if measured is None else measured.tau_int
    steps, chains = series.shape
    return histogram(series, edges, block=block_length(steps, chains, tau_int), seed=seed)


def _draw_ratio(axes: Axes, centres: Float[np.ndarray, " bins"], flow: Histogram, baseline: Histogram) -> str:
    """Draw flow over baseline with errors; returns how often they disagree. Bins known worse than 50 % are left out."""
    value, error = ratio(flow, baseline)
    known = np.isfinite(value) & np.isfinite(error) & (error > 0)
    good = known & (error < 0.5 * np.where(known, value, 1.0))
    axes.axhline(1.0, color=INK, linewidth=0.8)
    axes.errorbar(centres[good], value[good], error[good], fmt="o", markersize=2.6, color=FLOW, elinewidth=1.1)
    reach = float(np.quantile(np.abs(value[good] - 1) + error[good], 0.95)) if good.any() else 0.5
    reach = next((step for step in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if step >= 0.8 * reach), 2.0)
    axes.set_ylim(max(1 - 1.25 * reach, 0.0), 1 + 1.25 * reach)
    axes.set_yticks([max(1 - reach, 0.0), 1.0, 1 + reach])
    outside = int(np.count_nonzero(np.abs(value[good] - 1) > 2 * error[good]))
    expected = 0.05 * good.sum()
    return (
        f"{count(outside)} of {count(good.sum())} bins of the ratio lie further than 2σ from one; "
        f"about {significant(expected, 2 if expected >= 1 else 1)} would by chance."
    )


def _both(run: RunData, name: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    return (run.flow.chain(name) if run.flow else None), (run.baseline.chain(name) if run.baseline else None)


def _chosen(run: RunData, preferred: tuple[str, ...], same: dict[str, str]) -> list[str]:
    """Four names, preferred ones first; one that says the `same` as another only where that other is missing."""
    present = [name for name in run.scalar_names() if same.get(name) not in run.scalar_names()]
    ordered = [name for name in preferred if name in present] + [name for name in present if name not in preferred]
    return [name for name in ordered if any(series is not None for series in _both(run, name))][:4]
