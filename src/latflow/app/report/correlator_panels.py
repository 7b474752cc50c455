"""Quantities that depend on a separation: flow chain, baseline and exact result, point by point."""

# ruff: noqa: RUF001  (the page is typeset: true minus signs, dashes and Greek letters)

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from latflow.app.report.drawing import BASELINE, EXACT, FLOW, Panel, canvas, log_ticks, robust_limits
from latflow.app.report.numbers import capital, count, label
from latflow.app.report.run_data import RunData, section, vector

_LIMIT = 4


def correlator_panels(run: RunData) -> list[Panel]:
    """A panel for every vector in `observables.json` (at most four), in the order of the file."""
    panels = []
    for name, entry in run.observables.items():
        if name == "two_point" and "two_point_connected" in run.observables:
            continue  # the same up to a constant
        if name.startswith("flow_"):
            continue  # along the gradient flow, not a separation
        ours, error = vector(entry.get("value")), vector(entry.get("error"))
        if ours is not None and error is not None and ours.shape == error.shape and np.isfinite(ours).sum() > 1:
            panels.append(_panel(name, ours, error, entry))
    return panels[:_LIMIT]


def _panel(name: str, ours: Float[np.ndarray, " n"], error: Float[np.ndarray, " n"], entry: dict[str, Any]) -> Panel:
    slug = f"correlator-{name.replace('_', '-')}"
    baseline = section(entry, "baseline")
    theirs, their_error, exact = (vector(found) for found in (baseline.get("value"), baseline.get("error"), entry.get("exact")))
    x = np.arange(len(ours), dtype=float)
    drawn = [each for each in (ours, theirs, exact) if each is not None and each.shape == ours.shape]
    everything = np.concatenate(drawn)
    positive = everything[np.isfinite(everything)]
    logarithmic = bool(np.all(positive > 0) and positive.max() > 10 * positive.min())
    points: dict[str, Any] = {"fmt": "o", "markersize": 3.4, "elinewidth": 1.1}
    caption = "Error bars are one standard error."
    with canvas("separation in time", "average, logarithmic scale" if logarithmic else "average") as drawing:
        if exact is not None and exact.shape == ours.shape:
            drawing.axes.plot(x, exact, color=EXACT, linestyle=(0, (5, 3)), linewidth=1.2)
            caption = "Dashed: exact."
        if theirs is not None and their_error is not None and theirs.shape == their_error.shape == ours.shape:
            drawing.axes.errorbar(x + 0.12, theirs, their_error, color=BASELINE, **points)
            pull = np.abs(ours - theirs) / np.hypot(error, their_error)
            known = np.isfinite(pull)
            outside = np.count_nonzero(pull[known] > 2)
            caption += f" {count(outside)} of {count(known.sum())} points of the two chains differ by more than 2σ."
        drawing.axes.errorbar(x - (0.12 if theirs is not None else 0.0), ours, error, color=FLOW, **points)
        drawing.axes.set_xlim(-0.6, len(ours) - 0.4)
        if logarithmic:
            log_ticks(drawing.axes, "y")
            drawing.axes.set_ylim(float(positive.min()) / 2, float(positive.max()) * 1.6)
        else:
            drawing.axes.set_ylim(*robust_limits(np.concatenate([ours - error, ours + error]), include=list(positive)))
        svg = drawing.svg(slug)
    caption += " Points are shifted sideways to be told apart, and neighbours are correlated."
    title = capital(label(name))
    return Panel(slug, title, svg, f"{title} against separation. {caption}", caption)
