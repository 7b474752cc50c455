"""What was measured along the gradient flow: t^2 E with the scales it defines, and the topological susceptibility."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from latflow.app.report.comparison import flow_label
from latflow.app.report.drawing import BASELINE, EXACT, FLOW, Canvas, Panel, canvas, robust_limits
from latflow.app.report.numbers import baseline_label, finite, uncertain
from latflow.app.report.run_data import RunData, section, vector

_LEVEL = 0.3


@dataclass(frozen=True)
class _Curve:
    """Means at the flow times with errors, of one sampler."""

    who: str
    color: str
    value: Float[np.ndarray, " times"]
    error: Float[np.ndarray, " times"]


def gradient_flow_panels(run: RunData) -> list[Panel]:
    """t^2 E of both chains and, where there is a charge, the susceptibility; empty for fewer than two flow times."""
    times = vector(section(run.config, "measure").get("flow_times"))
    if times is None or len(times) < 2:
        return []
    drawn = ((_energy, "flow_energy_clover"), (_susceptibility, "flow_charge2"))
    found = [(panel, list(_curves(run, name, len(times)))) for panel, name in drawn]
    return [panel(run, times, curves) for panel, curves in found if curves]


def _curves(run: RunData, name: str, length: int) -> Iterator[_Curve]:
    entry = section(run.observables, name)
    for who, color, source in (
        (flow_label(run), FLOW, entry),
        (baseline_label(run.baseline_kind), BASELINE, section(entry, "baseline")),
    ):
        value, error = vector(source.get("value")), vector(source.get("error"))
        if value is not None and error is not None and len(value) == len(error) == length and np.isfinite(value).all():
            yield _Curve(who, color, value, error)


def _draw(drawing: Canvas, times: Float[np.ndarray, " times"], curves: list[_Curve]) -> None:
    for curve in curves:
        low, high = curve.value - curve.error, curve.value + curve.error
        drawing.axes.fill_between(times, low, high, color=curve.color, alpha=0.25, linewidth=0)
        drawing.axes.plot(times, curve.value, color=curve.color, marker="o", markersize=2.6)
    drawing.axes.set_xlim(0.0, 1.02 * float(times[-1]))


def _energy(run: RunData, times: Float[np.ndarray, " times"], curves: list[_Curve]) -> Panel:
    ends = [float(end) for curve in curves for end in (curve.value + curve.error).tolist()]
    scales = section(run.observables, "t_0")
    texts = []
    with canvas("flow time t", "t²⟨E⟩, clover") as drawing:
        drawing.axes.axhline(_LEVEL, color=EXACT, linestyle=(0, (5, 3)), linewidth=1.2)
        _draw(drawing, times, curves)
        for curve in curves:
            found = scales if curve.color == FLOW else section(scales, "baseline")
            t_0, error = finite(found.get("value")), finite(found.get("error"))
            if t_0 is None or error is None:
                texts.append(f"{curve.who} does not cross it at these times")
                continue
            texts.append(f"{curve.who} t₀ = {uncertain(t_0, error)}")
            above = 4 if curve.color == FLOW else 3
            point: Any = {"fmt": "D", "markersize": 6, "capsize": 4, "color": curve.color, "zorder": above}
            drawing.axes.errorbar([t_0], [_LEVEL], xerr=[error], **point)
        drawing.axes.set_ylim(0.0, 1.06 * max([*ends, _LEVEL]))
        svg = drawing.svg("gradient-flow-energy")
    caption = f"Bands are one standard error. Dashed: the level 0.3, which defines t₀; {'; '.join(texts)}."
    return Panel("gradient-flow-energy", "t²⟨E⟩ along the gradient flow", svg, f"t²⟨E⟩ against flow time. {caption}", caption)


def _susceptibility(run: RunData, times: Float[np.ndarray, " times"], curves: list[_Curve]) -> Panel:
    lattice: Any = section(run.config, "theory").get("lattice")
    volume = float(np.prod(lattice)) if isinstance(lattice, list) and lattice else 1.0
    scaled = [_Curve(curve.who, curve.color, curve.value / volume, curve.error / volume) for curve in curves]
    with canvas("flow time t", "⟨Q²⟩/V") as drawing:
        _draw(drawing, times, scaled)
        everything = np.concatenate([np.concatenate([c.value - c.error, c.value + c.error]) for c in scaled])
        drawing.axes.set_ylim(*robust_limits(everything, include=[0.0]))
        svg = drawing.svg("gradient-flow-susceptibility")
    caption = (
        "Clover charge. At small t it is dominated by short distances; where the curve is flat it is the susceptibility. "
        "The table quotes the last flow time."
    )
    title = "Topological susceptibility"
    return Panel("gradient-flow-susceptibility", title, svg, f"⟨Q²⟩/V against flow time. {caption}", caption)
