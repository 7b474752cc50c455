"""What the flow proposes and what Metropolis makes of it: weights, acceptance, and the history of one slow mode."""

# ruff: noqa: RUF001  (the page is typeset: true minus signs, dashes and Greek letters)

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from latflow.app.report.comparison import flow_label
from latflow.app.report.drawing import BASELINE, EXACT, FLOW, INK, Panel, canvas, dots, log_ticks, robust_limits
from latflow.app.report.numbers import baseline_label, capital, count, duration, percent, quantity, significant
from latflow.app.report.run_data import FlowSamples, RunData
from latflow.app.report.series import stuck_stretches, thin

_DOTS = 2500
_STEPS = 900
_HISTORIES = ("q", "magnetisation", "polyakov", "plaquette", "action_density")


def equal_weights(flow: FlowSamples) -> bool:
    """True where all log weights agree up to rounding, so that the proposals are exact draws."""
    return bool(np.all(np.isfinite(flow.log_weight)) and np.ptp(flow.log_weight) < 1e-2)


def weight_panels(flow: FlowSamples) -> list[Panel]:
    """Histogram of the log weights and scatter of -S against log q; empty where every weight is equal."""
    log_w = flow.log_weight
    good = np.isfinite(log_w)
    if good.sum() < 10 or equal_weights(flow):
        return []
    log_w, log_q, minus_s = log_w[good], flow.log_q[good], -flow.action[good]
    log_z = float(np.logaddexp.reduce(log_w) - np.log(len(log_w)))
    return [_weights(log_w - log_z), _scatter(log_q, minus_s, log_z)]


def _weights(relative: Float[np.ndarray, " n"]) -> Panel:
    low, high = float(np.quantile(relative, 0.001)), float(relative.max())
    edges = np.linspace(low, max(high, 0.1), 61)
    width = edges[1] - edges[0]
    centres = edges[:-1]
    proposals = np.histogram(relative, edges)[0] / (len(relative) * width)
    target = np.histogram(relative, edges, weights=np.exp(relative))[0] / (len(relative) * width)
    with canvas("log weight, relative to log Z", "density") as drawing:
        drawing.axes.fill_between(edges, np.append(proposals, proposals[-1]), step="post", color=FLOW, alpha=0.28, linewidth=0)
        drawing.axes.step(centres, proposals, where="post", color=FLOW)
        drawing.axes.step(centres, target, where="post", color=EXACT, linestyle=(0, (5, 3)), linewidth=1.3)
        drawing.axes.axvline(0.0, color=INK, linewidth=0.8, alpha=0.6)
        drawing.axes.set_xlim(edges[0], edges[-1])
        drawing.axes.set_ylim(0.0, 1.08 * float(max(proposals.max(), target.max())))
        svg = drawing.svg("weights")
    share = float(np.sort(np.exp(relative))[-max(len(relative) // 100, 1) :].sum() / np.exp(relative).sum())
    caption = (
        "Solid: the proposals. Dashed: the same, each counted with its weight, which is the theory itself. A perfect flow is a "
        f"spike at zero. What matters is the right end: the heaviest 1 % of the proposals carries {percent(share)} of the "
        "weight. A dashed curve that does not come down before the data end says that the ESS is not to be trusted."
    )
    alt = f"Histogram of log weights from {significant(low, 2)} to {significant(high, 2)} relative to log Z."
    return Panel("weights", "Log weights", svg, alt, caption)


def _scatter(log_q: np.ndarray, minus_s: np.ndarray, log_z: float) -> Panel:
    shown = thin(len(log_q), _DOTS)
    x_limits = robust_limits(log_q, 0.002, 1.0)
    y_limits = robust_limits(minus_s, 0.002, 1.0)
    with canvas("log q", "−S") as drawing:
        dots(drawing.axes, log_q[shown], minus_s[shown], FLOW)
        ends = np.array(x_limits)
        drawing.axes.plot(ends, ends + log_z, color=EXACT, linestyle=(0, (5, 3)), linewidth=1.3)
        drawing.axes.set_xlim(*x_limits)
        drawing.axes.set_ylim(*y_limits)
        svg = drawing.svg("scatter")
    correlation = float(np.corrcoef(log_q, minus_s)[0, 1]) if np.ptp(log_q) > 0 else 0.0
    caption = (
        "One point per proposal. On the dashed line, −S = log q + log Z, flow and theory give a configuration the same "
        "probability; points above it are proposed too rarely. "
        + (f"{count(len(shown))} of {count(len(log_q))} points are drawn." if len(shown) < len(log_q) else "")
    )
    alt = f"Scatter of minus the action against log q, correlation {correlation:.2f}, with the ideal line of slope one."
    return Panel("scatter", "Action against flow density", svg, alt, caption.strip())


def metropolis_panels(flow: FlowSamples) -> list[Panel]:
    """Acceptance along the chain and how long it gets stuck; empty before the chain exists."""
    if flow.accepted is None or len(flow.accepted) < 20:
        return []
    panels = [_acceptance(flow.accepted)]
    stretches = stuck_stretches(flow.accepted)
    if stretches.size and stretches.max() > 1:
        panels.append(_stuck(stretches, len(flow.accepted)))
    return panels


def _acceptance(accepted: np.ndarray) -> Panel:
    blocks = np.array_split(accepted.astype(float), min(100, len(accepted) // 10))
    rates = np.array([block.mean() for block in blocks])
    ends = np.cumsum([0] + [len(block) for block in blocks]).astype(float)
    mean = float(accepted.mean())
    with canvas("proposal", "accepted fraction") as drawing:
        drawing.axes.stairs(rates, ends, baseline=None, color=FLOW, linewidth=1.3)
        drawing.axes.axhline(mean, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
        drawing.axes.set_xlim(0.0, ends[-1])
        drawing.axes.set_ylim(0.0, 1.04)
        svg = drawing.svg("acceptance")
    caption = (
        f"In blocks of {count(len(blocks[0]))} proposals; the dotted line is the mean, {percent(mean)}. Dips to zero are "
        "stretches in which the chain sits on one heavy configuration."
    )
    return Panel("acceptance", "Acceptance", svg, f"Acceptance in blocks along the chain, mean {percent(mean)}.", caption)


def _stuck(stretches: np.ndarray, steps: int) -> Panel:
    lengths, number = np.unique(stretches, return_counts=True)
    at_least = np.cumsum(number[::-1])[::-1]
    longest = int(lengths[-1])
    with canvas("rejections in a row, at least", "stretches in the chain") as drawing:
        drawing.axes.step(
            np.insert(lengths.astype(float), 0, 0.5), np.insert(at_least, 0, at_least[0]), where="pre", color=FLOW
        )
        log_ticks(drawing.axes, "y")
        if longest > 40:
            log_ticks(drawing.axes, "x")
        drawing.axes.set_xlim(0.5, max(longest * 1.06, 2.5))
        drawing.axes.set_ylim(0.7, 1.6 * float(at_least[0]))
        svg = drawing.svg("stuck")
    caption = (
        f"The longest stretch is {count(longest)} rejections, {percent(longest / steps)} of the chain. Straight or bending "
        "down is healthy; a tail far to the right means that the flow misses part of the theory and errors are understated."
    )
    return Panel(
        "stuck", "Stuck stretches", svg, f"How often the chain rejects many times in a row, at most {count(longest)}.", caption
    )


def history_panels(run: RunData) -> tuple[str, list[Panel]]:
    """(what is shown, panels): a slow mode of both chains over the same wall time where it is known."""
    names = [key for key in _HISTORIES if any(each is not None for each in _series(run, key))][:1]
    if any(each is not None for each in _series(run, "det_sign")):
        names.append("det_sign")
    if not names:
        return "", []
    panels, share = [], ""
    for name in names:
        ours, theirs = _series(run, name)
        costs = _costs(run, ours, theirs)
        limits = robust_limits(np.concatenate([series for series in (ours, theirs) if series is not None]))
        drawn = 0
        for series, cost, who, color in (
            (ours, costs[0], flow_label(run), FLOW),
            (theirs, costs[1], baseline_label(run.baseline_kind), BASELINE),
        ):
            if series is not None:
                panels.append(_history(series, cost, costs[2], who, color, name, limits))
                drawn += 1
        if costs[0] is not None and drawn == 2:
            share = f"Both panels span the same {duration(costs[2])} of drawing; training is not counted."
        else:
            share = "Each panel spans its own chain."
    where = " at the last flow time" if names[0] == "q" and run.flowed_charge else ""
    what = " and ".join(quantity(name) for name in names)
    return f"{capital(what)}{where} along the chains. {share}", panels


def _series(run: RunData, name: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    ours = run.flow.chain(name) if run.flow else None
    theirs = run.baseline.chain(name) if run.baseline else None
    return (None if ours is None else ours[:, 0]), (None if theirs is None else theirs[:, 0])


def _costs(run: RunData, ours: np.ndarray | None, theirs: np.ndarray | None) -> tuple[float | None, float | None, float]:
    """Seconds per step of the flow chain and of one baseline chain, and the time both can span."""
    draw, baseline = run.seconds("sample"), run.seconds("baseline")
    if ours is None or theirs is None or run.baseline is None or not draw or not baseline:
        return None, None, 0.0
    per_flow = draw / len(ours)
    per_baseline = baseline / (run.baseline.shape[0] * run.baseline.shape[1])
    return per_flow, per_baseline, min(per_flow * len(ours), per_baseline * len(theirs))


def _history(
    series: np.ndarray, cost: float | None, span: float, who: str, color: str, name: str, limits: tuple[float, float]
) -> Panel:
    if cost is not None:
        series = series[: max(int(span / cost), 2)]
    shown = thin(len(series), _STEPS)
    scale, unit = (1.0, "step") if cost is None else (1000 * cost, "milliseconds") if span < 2 else (cost, "seconds")
    integers = bool(np.all(np.abs(series - np.rint(series)) < 1e-3))
    slug = f"history-{'flow' if color == FLOW else 'baseline'}" + ("" if name in _HISTORIES else f"-{name.replace('_', '-')}")
    with canvas(f"{unit} of drawing" if cost is not None else unit, quantity(name)) as drawing:
        if integers:
            drawing.axes.step(shown * scale, series[shown], where="post", color=color, linewidth=0.9)
        else:
            drawing.axes.plot(shown * scale, series[shown], color=color, linewidth=0.8)
        drawing.axes.set_xlim(0.0, span * scale / cost if cost is not None else float(len(series)))
        drawing.axes.set_ylim(*limits)
        svg = drawing.svg(slug)
    if integers:
        moves = int(np.count_nonzero(np.diff(series)))
        caption = f"{count(len(series))} steps, {count(moves)} change{'' if moves == 1 else 's'} of {quantity(name)}."
        caption += " The chain is frozen: it never left the sector it started in." if not moves else ""
    else:
        flips = int(np.count_nonzero(np.diff(np.sign(series))))
        caption = (
            f"{count(len(series))} steps; the sign changes {count(flips)} time{'' if flips == 1 else 's'}."
            if limits[0] < 0 < limits[1]
            else f"{count(len(series))} steps."
        )
    if len(shown) < len(series):
        caption += f" One in {count(shown[1])} is drawn."
    title = capital(who) if name in _HISTORIES else f"{capital(who)}: {quantity(name)}"
    return Panel(slug, title, svg, f"{title}: {caption}", caption)
