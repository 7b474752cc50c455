"""The figures: what is drawn from the runs, and which numbers stand beside the paper's."""

# ruff: noqa: RUF001  (the page is typeset: true minus signs, dashes and Greek letters)

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from latflow.app.report.drawing import BASELINE, EXACT, FLOW, INK, Panel, canvas
from latflow.app.report.draws_panels import curve
from latflow.app.report.numbers import capital, count, percent, quantity, significant, uncertain
from latflow.app.report.run_data import RunData, section
from latflow.app.report.series import autocorrelation, block_length, common_edges
from latflow.statistics import Histogram, histogram, ratio

Row = tuple[str, str, str]
Drawn = tuple[list[Panel], list[Row]]
_RESAMPLES = {"2207.08945": 200, "2208.03832": 1000}
_FEWEST = 1e-3  # probability of a bin that is compared


def _only(runs: Mapping[str, RunData]) -> RunData:
    return next(iter(runs.values()))


def _value(found: Any) -> str:
    return uncertain(found.get("value"), found.get("error")) if isinstance(found, dict) else "–"


def _joint(run: RunData) -> dict[str, Any]:
    return section(run.summary, "pseudofermions")


def _ess(run: RunData, draws: int) -> str:
    points = {point["draws"]: point for point in _joint(run).get("curve") or []}
    return uncertain(points[draws]["ess"], points[draws]["error"]) if draws in points else "–"


def _many(found: dict[str, Any], run: RunData, draws: int = 64) -> str:
    """The ESS of so many draws, by the fit where fewer were made."""
    fit = found.get("fit")
    if found.get("draws", 0) >= draws or not fit:
        return _ess(run, draws)
    return f"{fit['ess'] / (1 + fit['C'] / draws):.2f} by the fit, {_ess(run, found['draws'])} with {found['draws']} draws"


def _seconds(run: RunData) -> Row:
    stages = section(run.summary, "seconds")
    shown = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in stages.items() if seconds)
    return "wall time", "", shown


def _training(run: RunData, title: str) -> Panel:
    """Joint and marginal ESS of fresh configurations along the training."""
    rows = [row for row in run.training if row.get("joint_ess") is not None]
    steps = np.array([row["step"] for row in rows], float)
    with canvas("training step", "effective sample size") as drawing:
        top = 0.0
        for name, color in (("marginal_ess", EXACT), ("joint_ess", FLOW)):
            values = np.array([row.get(name) if row.get(name) is not None else np.nan for row in rows], float)
            if np.isfinite(values).any():
                drawing.axes.plot(steps, values, color=color)
                top = max(top, float(np.nanmax(values)))
        if len(steps):
            drawing.axes.set_xlim(0.0, float(steps[-1]))
        drawing.axes.set_ylim(0.0, min(1.1 * top, 1.05) or 1.0)
        svg = drawing.svg("training")
    caption = (
        "Lower curve: joint, one draw per monomial. Upper curve: marginal, with the exact determinant of the same "
        "configurations; it moves by its statistical error where the marginal model is not trained."
        if len(steps)
        else "Nothing was trained in this budget: the conditional model is the incomplete factorisation as it is."
    )
    return Panel("training", title, svg, f"{title}. {caption}", caption)


def _headlines(run: RunData, joint: str, marginal: str, acceptance: str) -> list[Row]:
    found = _joint(run)
    draws = found.get("draws", 1)
    return [
        ("joint ESS, one draw", joint, _ess(run, 1)),
        (f"ESS, {draws} draws", "", _value(run.summary.get("ess"))),
        ("marginal ESS", marginal, _value(found.get("marginal_ess"))),
        (f"Metropolis acceptance (here with {draws} draws)", acceptance, percent(run.summary.get("acceptance") or 0.0)),
        ("proposals", "", count(section(run.summary, "ess").get("samples"))),
        _seconds(run),
    ]


def training_s1(runs: Mapping[str, RunData]) -> Drawn:
    run = _only(runs)
    mass = section(section(run.summary, "observables"), "pion_mass")
    rows = [*_headlines(run, "0.05", "0.35", "18 %"), ("aM_PS", "0.35", _value(mass))]
    return [_training(run, "Schwinger model, 16×16")], rows


def training_s3(runs: Mapping[str, RunData]) -> Drawn:
    run = _only(runs)
    mass = section(section(run.summary, "observables"), "pion_mass")
    rows = [*_headlines(run, "0.03", "0.12", "8 %"), ("aM_pi", "0.72", _value(mass))]
    return [_training(run, "2D SU(3), 16×16")], rows


def draws_s1(runs: Mapping[str, RunData]) -> Drawn:
    run = _only(runs)
    found = _joint(run)
    rows: list[Row] = [
        ("ESS with one draw", "0.05", _ess(run, 1)),
        ("ESS with 64 draws", "0.30", _many(found, run)),
        ("marginal ESS", "0.35", _value(found.get("marginal_ess"))),
    ]
    if fit := found.get("fit"):
        rows.append(("ESS(∞) of the fit, Eq. (45)", "", uncertain(fit["ess"], fit["ess_error"])))
        rows.append(("C of the fit", "", uncertain(fit["C"], fit["C_error"])))
    return [curve(found)], [*rows, _seconds(run)]


def _worth(label: str, run: RunData) -> Row:
    """What one draw is worth by the spectrum of A, whatever the tails of a sample of weights show."""
    found = section(section(run.provenance, "stages"), "sample").get("spectra")
    if not found:
        return f"1 / E[w²] from the spectrum: {label}", "", "–"
    worth, infinite = float(np.prod([m["ess"] for m in found])), max(m["infinite_variance"] for m in found)
    tail = f", infinite variance for {percent(infinite)} of the gauge fields" if infinite else ""
    return f"1 / E[w²] from the spectrum: {label}", "", significant(worth, 2) + tail


def preconditionings(runs: Mapping[str, RunData]) -> Drawn:
    labels = [name.removeprefix("preconditioning-") for name in runs]
    panels, rows = [], []
    joint = [next(iter(_joint(run).get("curve") or [{}])) for run in runs.values()]
    marginal = [_joint(run).get("marginal_ess") or {} for run in runs.values()]
    for slug, title, points in (
        ("joint", "Joint ESS, one draw", [(p.get("ess"), p.get("error")) for p in joint]),
        ("marginal", "Marginal ESS", [(p.get("value"), p.get("error")) for p in marginal]),
    ):
        values, errors = (np.array([np.nan if x is None else x for x in column], float) for column in zip(*points, strict=True))
        with canvas("preconditioning", "effective sample size") as drawing:
            x = np.arange(len(labels), dtype=float)
            drawing.axes.errorbar(x, values, errors, color=FLOW, fmt="o", markersize=5, elinewidth=1.3)
            drawing.axes.set_xlim(-0.5, len(labels) - 0.5)
            drawing.axes.set_xticks(x, labels)
            drawing.axes.minorticks_off()
            drawing.axes.set_ylim(0.0, min(1.1 * float(np.nanmax(values + errors)), 1.05))
            svg = drawing.svg(slug)
        caption = ", ".join(f"{label} {uncertain(v, e)}" for label, v, e in zip(labels, values, errors, strict=True))
        panels.append(Panel(slug, title, svg, f"{title}: {caption}", caption + "."))
        rows += [
            (f"{title[0].lower()}{title[1:]}: {label}", "", uncertain(v, e))
            for label, v, e in zip(labels, values, errors, strict=True)
        ]
    rows += [_worth(label, run) for label, run in zip(labels, runs.values(), strict=True)]
    order = [float(p.get("ess") or np.nan) for p in joint]
    rising = all(a < b for a, b in itertools.pairwise(order))
    rows.append(("order of the joint ESS", " < ".join(labels), "the same" if rising else "another"))
    total = sum(sum(seconds for seconds in section(run.summary, "seconds").values() if seconds) for run in runs.values())
    return panels, [*rows, ("wall time", "", f"{total:.0f} s")]


def _compared(run: RunData, name: str, component: int | None = None, paper: str = "2207.08945") -> _Comparison | None:
    """The weighted proposals and the baseline in common bins, None where one of them is missing."""
    if run.flow is None or run.baseline is None:
        return None
    ours, theirs = run.flow.measurements.get(name), run.baseline.measurements.get(name)
    if ours is None or theirs is None:
        return None
    if component is not None:
        ours, theirs = ours[..., component], theirs[..., component]
    ours, theirs = ours.astype(float), theirs.astype(float)
    edges = common_edges([ours, theirs], 24)
    measured = autocorrelation(theirs)
    steps, chains = theirs.shape
    block = block_length(steps, chains, 0.5 if measured is None else measured.tau_int)
    flow = histogram(ours, edges, run.flow.log_weight, resamples=_RESAMPLES[paper], seed=1)
    baseline = histogram(theirs, edges, block=block, resamples=_RESAMPLES[paper], seed=2)
    return _Comparison(flow, baseline)


class _Comparison:
    """Two histograms over the same bins, and by how many of their errors they differ where either has enough entries."""

    def __init__(self, flow: Histogram, baseline: Histogram):
        self.flow, self.baseline = flow, baseline
        both = np.hypot(flow.error, baseline.error)
        good = (np.minimum(flow.probability, baseline.probability) > _FEWEST) & (both > 0)
        self.good: Any = good
        self.residuals: Float[np.ndarray, " bins"] = ((flow.probability - baseline.probability)[good]) / both[good]

    @property
    def chi2(self) -> float:
        return float(np.sum(self.residuals**2))

    def panel(self, slug: str, title: str, label: str) -> Panel:
        edges, flow, baseline = self.flow.edges, self.flow, self.baseline
        centres = 0.5 * (edges[1:] + edges[:-1])
        with canvas(label, "probability density", "flow / HMC") as drawing:
            low, high = flow.density - flow.density_error, flow.density + flow.density_error
            drawing.axes.bar(centres, high - low, 0.999 * np.diff(edges), low, color=FLOW, alpha=0.3, linewidth=0)
            drawing.axes.stairs(flow.density, edges, color=FLOW, linewidth=1.2, baseline=None)
            points: dict[str, Any] = {"fmt": "o", "markersize": 3, "color": BASELINE, "elinewidth": 1.1}
            drawing.axes.errorbar(centres, baseline.density, baseline.density_error, **points)
            drawing.axes.set_ylim(0.0, 1.06 * float(max(high.max(), (baseline.density + baseline.density_error).max())))
            drawing.axes.set_xlim(edges[0], edges[-1])
            if drawing.ratio is not None:
                value, error = ratio(flow, baseline)
                good = self.good & np.isfinite(value) & np.isfinite(error)
                drawing.ratio.axhline(1.0, color=INK, linewidth=0.8)
                drawing.ratio.errorbar(
                    centres[good], value[good], error[good], fmt="o", markersize=2.6, color=FLOW, elinewidth=1.1
                )
                reach = float(np.quantile(np.abs(value[good] - 1) + error[good], 0.9)) if good.any() else 0.5
                drawing.ratio.set_ylim(max(1 - 1.2 * reach, 0.0), 1 + 1.2 * reach)
            svg = drawing.svg(slug)
        caption = f"χ² = {significant(self.chi2, 3)} for {count(len(self.residuals))} bins."
        return Panel(slug, title, svg, f"Distribution of {title} from flow and HMC. {caption}", caption)


# name of the measurement, component, title
_S1 = (("plaquette", None, "plaquette"), ("q", None, "topological charge"))
_S3 = (("plaquette", None, "plaquette"), *(("pion", t, f"pion correlator, x₀ = {t}") for t in (0, 2, 4, 8)))
_S4 = (
    ("plaquette", None, "plaquette"),
    ("polyakov", None, "Re Polyakov loop"),
    *(("pion", t, f"pion correlator, x₀ = {t}") for t in (0, 1, 2)),
    ("q", None, "topological charge at t/a² = 4"),
)


def _histograms(run: RunData, wanted: tuple[tuple[str, int | None, str], ...], paper: str) -> tuple[list[_Comparison], Drawn]:
    found, panels, rows = [], [], []
    for name, component, title in wanted:
        compared = _compared(run, name, component, paper)
        if compared is None:
            continue
        found.append(compared)
        slug = f"{name}-{component}" if component is not None else name
        panels.append(compared.panel(slug, capital(title), quantity(name) if component is None else title))
        bins = len(compared.residuals)
        rows.append((f"{title}: χ² per bin", "consistent", f"{compared.chi2 / max(bins, 1):.2f} ({bins} bins)"))
    return found, (panels, [*rows, ("ESS", "", _value(run.summary.get("ess"))), _seconds(run)])


def histograms_s1(runs: Mapping[str, RunData]) -> Drawn:
    return _histograms(_only(runs), _S1, "2207.08945")[1]


def histograms_s3(runs: Mapping[str, RunData]) -> Drawn:
    return _histograms(_only(runs), _S3, "2207.08945")[1]


def histograms_s4(runs: Mapping[str, RunData]) -> Drawn:
    run = _only(runs)
    panels, rows = _histograms(run, _S4, "2208.03832")[1]
    draws = _joint(run).get("draws", 1)
    ess = ("ESS", "0.1 with 512 draws", f"{_value(run.summary.get('ess'))} with {draws} draws")
    return panels, [ess, *(row for row in rows if row[0] != "ESS")]


def residuals_s4(runs: Mapping[str, RunData]) -> Drawn:
    """Squared residuals of all bins of all observables beside the chi-squared distribution of one degree of freedom."""
    from scipy.stats import chi2, kstest

    run = _only(runs)
    found = _histograms(run, _S4, "2208.03832")[0]
    squared = np.concatenate([compared.residuals for compared in found] or [np.zeros(0)]) ** 2
    edges = np.linspace(0.0, 9.0, 19)
    with canvas("squared residual of a bin", "bins, relative") as drawing:
        counts = np.histogram(squared, edges)[0] / max(len(squared), 1)
        expected = np.diff(chi2.cdf(edges, 1))
        drawing.axes.stairs(counts, edges, color=FLOW, linewidth=1.4, baseline=None)
        drawing.axes.stairs(expected, edges, color=EXACT, linewidth=1.3, linestyle=(0, (5, 3)), baseline=None)
        drawing.axes.set_xlim(0.0, edges[-1])
        drawing.axes.set_ylim(0.0, 1.1 * float(max(counts.max(), expected.max())))
        svg = drawing.svg("residuals")
    probability = float(kstest(squared, chi2(1).cdf).pvalue) if len(squared) else float("nan")
    caption = (
        f"{count(len(squared))} bins; dashed: χ² with one degree of freedom. Mean {significant(float(squared.mean()), 3)}; a "
        f"Kolmogorov-Smirnov test gives p = {significant(probability, 2)} (bins of one histogram are slightly correlated)."
        if len(squared)
        else "There is no baseline to compare with."
    )
    panel = Panel("residuals", "Residuals", svg, f"Squared residuals. {caption}", caption)
    rows: list[Row] = [
        ("mean squared residual", "1 expected", significant(float(squared.mean()), 3) if len(squared) else "–"),
        ("Kolmogorov-Smirnov p", "", significant(probability, 2)),
        _seconds(run),
    ]
    return [panel], rows
