"""The two tables of the page: what was measured against what is known, and what it cost."""

# ruff: noqa: RUF001  (the page is typeset: true minus signs, dashes and Greek letters)

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from latflow.app.report.numbers import (
    alongside,
    baseline_label,
    count,
    duration,
    finite,
    label,
    order,
    percent,
    pull,
    quantity,
    sigmas,
    significant,
    uncertain,
)
from latflow.app.report.run_data import RunData, section
from latflow.app.report.series import autocorrelation

LIMIT = 3.0
_PRIOR = ("Prior ensemble", "Tuning of the prior")


@dataclass(frozen=True)
class Cell:
    """A number of the table, its distance to the exact value where there is one, and whether that is too far."""

    text: str
    pull: str = ""
    flagged: bool = False


@dataclass(frozen=True)
class ObservableRow:
    """One observable; `difference` is flow chain minus baseline in units of their combined error."""

    name: str
    key: str
    flow: Cell
    reweighted: Cell
    baseline: Cell
    exact: str
    difference: Cell
    tau_flow: str
    tau_baseline: str


@dataclass(frozen=True)
class ObservableTable:
    """All rows and a sentence on whether everything agrees."""

    rows: list[ObservableRow]
    verdict: str
    alarming: bool
    has_exact: bool
    has_reweighted: bool
    has_baseline: bool


def observable_table(run: RunData) -> ObservableTable:
    """The observables of `observables.json` that are one number; the others are drawn."""
    rows, pulls, theirs = [], [], []
    for key, entry in _scalars(run):
        exact = finite(entry.get("exact"))
        reweighted, baseline = section(entry, "reweighted"), section(entry, "baseline")
        value, error = finite(entry.get("value")), finite(entry.get("error"))
        distances = [pull(value, error, exact, 0.0)]
        distances.append(pull(finite(reweighted.get("value")), finite(reweighted.get("error")), exact, 0.0))
        distances.append(pull(finite(baseline.get("value")), finite(baseline.get("error")), exact, 0.0))
        difference = pull(value, error, finite(baseline.get("value")), finite(baseline.get("error")))
        ours = (
            (distances[0], label(key), "exact"),
            (distances[1], f"{label(key)}, reweighted,", "exact"),
            (difference, label(key), "baseline"),
        )
        pulls += [(abs(distance), name, what) for distance, name, what in ours if distance is not None]
        if distances[2] is not None:
            theirs.append(abs(distances[2]))
        elif exact is not None and finite(baseline.get("error")) == 0 and baseline.get("value") != exact:
            theirs.append(math.inf)  # it never moved
        rows.append(
            ObservableRow(
                name=label(key),
                key=key,
                flow=_cell(uncertain(value, error), distances[0]),
                reweighted=_cell(uncertain(reweighted.get("value"), reweighted.get("error")), distances[1]),
                baseline=_cell(uncertain(baseline.get("value"), baseline.get("error")), distances[2]),
                exact=alongside(exact, error),
                difference=_cell(sigmas(difference) or "–", difference, show=False),
                tau_flow=significant(entry.get("tau_int"), 2),
                tau_baseline=significant(baseline.get("tau_int"), 2),
            )
        )
    return ObservableTable(
        rows=rows,
        verdict=_agreement(flow_label(run), baseline_label(run.baseline_kind), pulls, theirs),
        alarming=any(distance > LIMIT for distance, _, _ in pulls),
        has_exact=any(row.exact != "–" for row in rows),
        # a stored ensemble has no other estimate than reweighting
        has_reweighted=not section(run.summary, "prior") and any(row.reweighted.text != "–" for row in rows),
        has_baseline=any(row.baseline.text != "–" for row in rows),
    )


def _scalars(run: RunData) -> Iterator[tuple[str, dict[str, Any]]]:
    shared = section(section(run.summary, "baseline"), "observables")
    for name, entry in sorted(run.observables.items(), key=lambda item: order(item[0])):
        if not isinstance(entry.get("value"), list):
            yield name, {**entry, "baseline": section(entry, "baseline") or section(shared, name)}


def _cell(text: str, distance: float | None, show: bool = True) -> Cell:
    return Cell(text, sigmas(distance) if show else "", distance is not None and abs(distance) > LIMIT)


def _agreement(ours: str, baseline: str, pulls: list[tuple[float, str, str]], theirs: list[float]) -> str:
    """`pulls`: (distance, observable, what it was compared with) of the flow; `theirs`: of the baseline, from exact results."""
    if not pulls:
        return f"There is nothing here to compare the {ours} with."
    exact = [distance for distance, _, what in pulls if what == "exact"]
    if exact and max(exact) <= LIMIT and (wrong := sum(distance > LIMIT for distance in theirs)):
        return (
            f"The {ours} agrees with the exact results: all {len(exact)} comparisons lie within 3σ, the largest at "
            f"{max(exact):.1f}σ. The {baseline} chains do not: {wrong} of {len(theirs)} observables are more than 3σ off, so "
            f"where the two samplers differ it is {baseline} that is wrong, or whose errors are too small."
        )
    known = "exact results" if any(what == "exact" for _, _, what in pulls) else "the baseline"
    known += " and the baseline" if len({what for _, _, what in pulls}) == 2 else ""
    largest = max(pulls)
    outside = sum(distance > LIMIT for distance, _, _ in pulls)
    if not outside:
        return (
            f"The {ours} agrees with {known}: all {len(pulls)} comparisons lie within 3σ, "
            f"the largest at {largest[0]:.1f}σ ({largest[1]} against {largest[2]})."
        )
    return (
        f"{outside} of {len(pulls)} comparisons of the {ours} with {known} differ by more than 3σ, "
        f"the largest by {largest[0]:.1f}σ ({largest[1]} against "
        f"{largest[2]}): look at the histories below before trusting either."
    )


@dataclass(frozen=True)
class Cost:
    """What one method paid and got. `rate` counts effective samples of its slowest observable per second of drawing."""

    setup: float
    draw: float
    steps: int
    slowest: str
    tau: float
    frozen: bool

    @property
    def effective(self) -> float:
        return 0.0 if self.frozen else self.steps / (2 * max(self.tau, 0.5))

    @property
    def rate(self) -> float:
        return self.effective / self.draw

    @property
    def rate_with_setup(self) -> float:
        return self.effective / (self.draw + self.setup)


@dataclass(frozen=True)
class CostTable:
    """Rows of (what, flow, baseline), none before there is a cost, and the sentences that say which method wins."""

    rows: list[tuple[str, str, str]]
    verdict: str

    @property
    def short(self) -> str:
        """The verdict without its reasons."""
        return self.verdict.partition(":")[0].rstrip(".") + "."


def flow_label(run: RunData) -> str:
    """ "exact sampler" for a run without a flow, "resampled prior" if one is learned, "flow" otherwise."""
    identity, prior = section(run.config, "flow").get("kind") == "identity", section(run.config, "prior")
    if not (identity and prior.get("kind") == "exact"):
        return "flow"
    if section(run.config, "fermions").get("kind", "none") == "none":
        return "exact sampler"
    return "resampled prior" if prior.get("learn") else "exact prior"


def flow_cost(run: RunData) -> Cost | None:
    """Cost of the flow chain, None while it has not been drawn or timed."""
    if run.flow is None or run.flow.chain_index is None or run.seconds("sample") is None:
        return None
    setup, draw, prior = run.seconds("train") or 0.0, run.seconds("sample") or 0.0, run.seconds("prior") or 0.0
    if section(run.summary, "tuned_prior"):
        setup += prior  # once, whatever is drawn
    else:
        draw += prior
    taus = {name: finite(entry.get("tau_int")) for name, entry in run.observables.items()}
    return _cost(run.flow.chain, run, taus, setup, draw, len(run.flow.chain_index))


def baseline_cost(run: RunData) -> Cost | None:
    """Cost of the baseline sampler, None if there is none or it was not timed."""
    seconds = run.seconds("baseline")
    if run.baseline is None or not seconds:
        return None
    shared = section(section(run.summary, "baseline"), "observables")
    taus = {name: finite(section(entry, "baseline").get("tau_int")) for name, entry in run.observables.items()}
    taus |= {name: finite(section(shared, name).get("tau_int")) for name in shared if taus.get(name) is None}
    return _cost(run.baseline.chain, run, taus, 0.0, seconds, math.prod(run.baseline.shape))


def _cost(chain: Any, run: RunData, taus: dict[str, float | None], setup: float, draw: float, steps: int) -> Cost | None:
    slowest, tau, frozen = "", -1.0, False
    for name in run.scalar_names():
        series = chain(name)
        if series is None:
            continue
        if np.ptp(series) == 0.0 and _moves(run, name):
            slowest, tau, frozen = name, math.inf, True
            break
        found = taus.get(name)
        if found is None:
            measured = autocorrelation(series)
            found = measured.tau_int if measured else None
        if found is not None and found > tau:
            slowest, tau = name, found
    return Cost(setup, draw, steps, slowest, tau, frozen) if slowest and draw > 0 else None


def _moves(run: RunData, name: str) -> bool:
    other = [run.flow.chain(name) if run.flow else None, run.baseline.chain(name) if run.baseline else None]
    return any(series is not None and np.ptp(series) > 0.0 for series in other)


def cost_table(run: RunData) -> CostTable:
    """The cost of flow and baseline side by side, training included."""
    flow, baseline = flow_cost(run), baseline_cost(run)
    ess = section(run.summary, "ess")
    by_weights = finite(ess.get("value"))
    drawn = finite(ess.get("samples"))
    rows = [
        ("Training", duration(run.seconds("train")) if run.seconds("train") else "none", "none needed"),
        *(
            [(_PRIOR[bool(section(run.summary, "tuned_prior"))], duration(prior), "none needed")]
            if (prior := run.seconds("prior"))
            else []
        ),
        ("Drawing and measuring", duration(run.seconds("sample")), duration(run.seconds("baseline"))),
        ("Acceptance", percent(run.summary.get("acceptance")), percent(section(run.summary, "baseline").get("acceptance"))),
        ("Configurations", count(flow.steps if flow else None), count(baseline.steps if baseline else None)),
    ]
    if by_weights is not None and drawn is not None and flow is not None:
        rows.append(("ESS by weights, per second", significant(by_weights * drawn / flow.draw), "–"))
    rows += [
        ("Slowest observable", _slowest(flow), _slowest(baseline)),
        ("Effective samples of it, N / 2τ", _effective(flow), _effective(baseline)),
        ("Effective samples per second", _rate(flow, "rate"), _rate(baseline, "rate")),
        ("… training included", _rate(flow, "rate_with_setup"), _rate(baseline, "rate_with_setup")),
    ]
    if flow and baseline:
        rows.append(("Training is paid back after", _break_even_text(flow, baseline), ""))
    return CostTable(rows if flow or baseline else [], cost_verdict(run, flow, baseline))


def break_even(flow: Cost, baseline: Cost) -> float | None:
    """Effective samples beyond which training plus drawing is cheaper than the baseline; None if that never happens."""
    if flow.rate <= 0.0 or flow.rate <= baseline.rate:
        return None
    return flow.setup / (1 / baseline.rate - 1 / flow.rate) if baseline.rate > 0.0 else 0.0


def _break_even_text(flow: Cost, baseline: Cost) -> str:
    number = break_even(flow, baseline)
    if number is None:
        return "never: it also draws slower"
    if flow.setup == 0.0:
        return "nothing to pay back"
    return "at once: the baseline is frozen" if baseline.frozen else f"{count(number)} effective samples"


def _slowest(cost: Cost | None) -> str:
    if cost is None:
        return "–"
    return f"{quantity(cost.slowest)} (frozen)" if cost.frozen else f"{quantity(cost.slowest)} (τ = {significant(cost.tau, 2)})"


def _effective(cost: Cost | None) -> str:
    return "–" if cost is None else "not measurable" if cost.frozen else count(cost.effective)


def _rate(cost: Cost | None, which: str) -> str:
    return "–" if cost is None else "not measurable" if cost.frozen else significant(getattr(cost, which))


def cost_verdict(run: RunData, flow: Cost | None, baseline: Cost | None) -> str:
    """Which method wins at this size, in one or two sentences."""
    ours, theirs = flow_label(run), baseline_label(run.baseline_kind)
    if flow is None and section(run.config, "flow").get("kind") == "none":
        return "This run has no flow, so there is no cost to compare."
    if flow is None:
        return "The flow chain has not been drawn and timed yet, so there is no cost to compare."
    if baseline is None:
        return "No timed baseline belongs to this run, so nothing can be said about which sampler is cheaper."
    if flow.frozen:
        return f"The baseline wins at this size: the {ours} chain never changed {quantity(flow.slowest)}, so it explores less."
    if baseline.frozen:
        return (
            f"The {ours} wins at this size: the {theirs} chains never changed {quantity(baseline.slowest)} in "
            f"{count(baseline.steps)} steps, so their errors cannot be trusted and their cost has no meaning."
        )
    speeds = f"{significant(flow.rate)} effective samples per second against {significant(baseline.rate)} of {theirs}"
    number = break_even(flow, baseline)
    if number is None:
        after = ", even before its training is counted, so training is never paid back" if flow.setup else ""
        return f"The baseline wins at this size: the {ours} delivers {speeds}{after}."
    if flow.setup == 0.0:
        return f"The {ours} wins at this size: it delivers {speeds}, and there was nothing to train."
    if flow.effective >= number:
        return (
            f"The {ours} wins at this size, training included: it delivers {speeds}, and its training was paid back after "
            f"{count(number)} of the {count(flow.effective)} effective samples drawn here."
        )
    return (
        f"As run here the baseline wins: the {ours} draws faster ({speeds}), but its training is paid back only after "
        f"{count(number)} effective samples, and this run drew {count(flow.effective)}."
    )
