"""How the training went: loss, effective sample size, gradients, pace."""

# ruff: noqa: RUF001  (the page is typeset: true minus signs, dashes and Greek letters)

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from latflow.app.report.drawing import EXACT, FLOW, INK, Panel, canvas, log_ticks, robust_limits
from latflow.app.report.numbers import count, duration, finite, percent, power_of_ten, significant
from latflow.app.report.run_data import RunData, section
from latflow.app.report.series import thin

_POINTS = 700


def training_panels(run: RunData) -> list[Panel]:
    """Panels of the training log, empty if there was no training."""
    rows = run.training
    if len(rows) < 2:
        return []
    steps = np.array([row["step"] for row in rows], dtype=float)
    columns = {key: _column(run, key) for key in ("loss", "ess", "grad_norm", "learning_rate", "seconds_per_step", "coupling")}
    panels = [_loss(run, steps, columns), _ess(steps, columns["ess"]), _gradient(steps, columns["grad_norm"])]
    panels += [
        _rate(steps, columns["learning_rate"]),
        _pace(steps, columns["seconds_per_step"]),
        _coupling(steps, columns["coupling"]),
    ]
    return [panel for panel in panels if panel is not None]


def training_summary(run: RunData) -> str:
    """One sentence on length, time and faults of the training."""
    last = run.training[-1]
    text = f"{count(last['step'])} steps in {duration(run.seconds('train'))}."
    skipped = finite(last.get("skipped"))
    if skipped:
        text += f" {count(skipped)} of them met a loss or gradient that was not finite and changed nothing."
    return text


def _column(run: RunData, key: str) -> Float[np.ndarray, " rows"]:
    return np.array([np.nan if (value := finite(row.get(key))) is None else value for row in run.training])


def _line(
    x: str, y: str, slug: str, steps: np.ndarray, values: np.ndarray, limits: tuple[float, float] | None, log: bool = False
) -> str:
    with canvas(x, y) as drawing:
        shown = thin(len(steps), _POINTS)
        good = np.isfinite(values)
        if len(steps) > 60:
            drawing.axes.plot(steps[shown], values[shown], color=FLOW, alpha=0.35, linewidth=1.0)
            drawing.axes.plot(steps[good], _running_mean(values[good]), color=FLOW, linewidth=1.8)
        else:
            drawing.axes.plot(steps[good], values[good], color=FLOW, linewidth=1.8)
        drawing.axes.set_xlim(0.0, steps[-1])
        if log:
            log_ticks(drawing.axes, "y")
        if limits is not None:
            drawing.axes.set_ylim(*limits)
        return drawing.svg(slug)


def _running_mean(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    width = max(len(values) // 40, 1)
    kernel = np.ones(2 * width + 1)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _loss(run: RunData, steps: np.ndarray, columns: dict[str, np.ndarray]) -> Panel | None:
    loss = columns["loss"]
    if np.isfinite(loss).sum() < 2:
        return None
    annealed = _varies(columns["coupling"])
    forward = section(run.config, "train").get("estimator") == "forward"
    log_z = section(run.summary, "log_z")
    known = finite(log_z.get("exact"))
    bound = known if known is not None else finite(log_z.get("value"))
    bound = None if annealed or forward or bound is None else -bound
    tail = loss[max(len(loss) // 20, 1) :]
    with canvas("training step", "log q + S, batch mean") as drawing:
        shown = thin(len(steps), _POINTS)
        good = np.isfinite(loss)
        drawing.axes.plot(steps[shown], loss[shown], color=FLOW, alpha=0.35, linewidth=1.0)
        drawing.axes.plot(steps[good], _running_mean(loss[good]) if good.sum() > 60 else loss[good], color=FLOW, linewidth=1.8)
        if bound is not None:
            drawing.axes.axhline(bound, color=EXACT, linewidth=1.2, linestyle=(0, (5, 3)))
            drawing.axes.annotate(
                "−log Z", (1, bound), (0, -5), ("axes fraction", "data"), "offset points", ha="right", va="top", color=INK
            )
        drawing.axes.set_xlim(0.0, steps[-1])
        span = robust_limits(tail, 0.0, 0.995, [bound])
        drawing.axes.set_ylim(span[0] - (0.08 * (span[1] - span[0]) if bound is not None else 0.0), span[1])
        svg = drawing.svg("loss")
    last = float(np.nanmean(tail[-max(len(tail) // 20, 1) :]))
    floor = (
        f" The dashed line is −log Z{'' if known is not None else ' as estimated from the samples'}, the lowest possible; "
        f"the distance still to go, {significant(max(last - bound, 0.0), 2)}, is the Kullback–Leibler divergence."
        if bound is not None
        else " The coupling moves while this is recorded, so falling and rising are both expected."
        if annealed
        else ""
    )
    return Panel(
        "loss",
        "Loss",
        svg,
        f"Training loss against step, ending near {significant(last, 4)}.",
        "Should fall and flatten." + floor,
    )


def _ess(steps: np.ndarray, ess: np.ndarray) -> Panel | None:
    if np.isfinite(ess).sum() < 2:
        return None
    svg = _line("training step", "ESS within a batch", "ess", steps, ess, (0.0, 1.02))
    last = float(ess[np.isfinite(ess)][-max(len(ess) // 20, 1) :].mean())
    caption = (
        f"Fraction of a training batch that counts, {percent(last)} at the end. Small batches flatter: the number to quote is "
        "the one at the top of the page. A collapse late in training means that a mode of the theory has been lost."
    )
    return Panel(
        "ess", "Effective sample size", svg, f"Effective sample size against step, ending at {percent(last)}.", caption
    )


def _gradient(steps: np.ndarray, norm: np.ndarray) -> Panel | None:
    good = np.isfinite(norm) & (norm > 0)
    if good.sum() < 2:
        return None
    values = np.where(good, norm, np.nan)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    svg = _line("training step", "norm, logarithmic scale", "gradient", steps, values, (low / 1.5, high * 1.5), log=True)
    spread = high / float(np.nanmedian(values))
    caption = f"Before clipping. The largest is {significant(spread, 2)} times the median; rare spikes are harmless."
    return Panel("gradient", "Gradient norm", svg, f"Gradient norm from {significant(low)} to {significant(high)}.", caption)


def _rate(steps: np.ndarray, rate: np.ndarray) -> Panel | None:
    if not _varies(rate) or np.nanmax(rate) <= 0.0:
        return None
    exponent = math.floor(math.log10(float(np.nanmax(rate))))
    scaled = rate / 10.0**exponent
    with canvas("training step", f"in units of {power_of_ten(exponent)}") as drawing:
        drawing.axes.plot(steps, scaled, color=FLOW, linewidth=1.8)
        drawing.axes.set_xlim(0.0, steps[-1])
        drawing.axes.set_ylim(0.0, 1.06 * float(np.nanmax(scaled)))
        svg = drawing.svg("rate")
    caption = "The schedule as applied: the last part at a small rate is where the ESS gains its final points."
    return Panel("rate", "Learning rate", svg, f"Learning rate, at most {significant(np.nanmax(rate), 2)}.", caption)


def _pace(steps: np.ndarray, seconds: np.ndarray) -> Panel | None:
    if np.isfinite(seconds).sum() < 2:
        return None
    milliseconds = 1000 * seconds
    median = float(np.nanmedian(milliseconds))
    limits = (0.0, min(1.1 * float(np.nanquantile(milliseconds, 0.98)), 3 * median))
    svg = _line("training step", "milliseconds per step", "pace", steps, milliseconds, limits)
    caption = (
        f"Median {significant(median)} ms. Level means that nothing else took the machine; compiling may leave the frame at "
        "the start."
    )
    return Panel("pace", "Time per step", svg, f"Milliseconds per training step, median {significant(median)}.", caption)


def _coupling(steps: np.ndarray, coupling: np.ndarray) -> Panel | None:
    if not _varies(coupling):
        return None
    with canvas("training step", "coupling trained at") as drawing:
        drawing.axes.plot(steps, coupling, color=FLOW, linewidth=1.8)
        drawing.axes.set_xlim(0.0, steps[-1])
        drawing.axes.set_ylim(*robust_limits(coupling))
        svg = drawing.svg("coupling")
    ends = coupling[np.isfinite(coupling)][[0, -1]]
    caption = f"Annealed from {ends[0]:g} to {ends[1]:g}: loss and ESS above refer to the coupling of their moment."
    return Panel("coupling", "Coupling", svg, f"Coupling annealed from {ends[0]:g} to {ends[1]:g}.", caption)


def _varies(values: np.ndarray) -> bool:
    finite_values = values[np.isfinite(values)]
    return finite_values.size > 1 and bool(np.ptp(finite_values) > 0.0)
