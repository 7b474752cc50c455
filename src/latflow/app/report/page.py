"""One run directory in, one self-contained page out."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from latflow.app.report import (
    chain_panels,
    comparison,
    correlator_panels,
    draws_panels,
    ensemble_panels,
    gradient_flow_panels,
    story,
    training_panels,
)
from latflow.app.report.drawing import Panel
from latflow.app.report.numbers import baseline_label, duration
from latflow.app.report.run_data import RunData, load_run, section
from latflow.io.atomic import write_text


@dataclass(frozen=True)
class Section:
    """A titled group of panels, or the sentence that stands where there is nothing to draw."""

    slug: str
    title: str
    intro: str
    panels: list[Panel] = field(default_factory=list)
    absent: str = ""
    legend: bool = False
    table: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Share:
    """One stage of the wall-time bar."""

    stage: str
    seconds: float
    text: str


def write_page(run_dir: Path) -> Path:
    """See `latflow.app.report.write_report`."""
    directory = run_dir.resolve()
    target = directory / "report.html"
    write_text(target, render(load_run(directory)))
    return target


def render(run: RunData) -> str:
    """The page as text."""
    source = resources.files("latflow.app.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["svg"] = Markup
    template = environment.from_string((source / "page.html.j2").read_text("utf-8"))
    ours, theirs = story.samplers(run)
    return template.render(
        style=Markup((source / "page.css").read_text("utf-8")),
        name=run.config.get("name") or run.summary.get("recipe") or run.directory.name,
        description=str(run.config.get("description") or ""),
        theory=story.theory(run),
        ours=ours,
        theirs=theirs,
        stored=bool(section(run.summary, "prior")),
        notices=story.notices(run),
        headlines=story.headlines(run),
        observables=comparison.observable_table(run),
        costs=comparison.cost_table(run),
        sections=sections(run),
        shares=shares(run),
        provenance=story.flattened(run.provenance),
        config_text=run.config_text,
        reproduce=story.reproduce(run),
        duration=duration,
        total=duration(sum(share.seconds for share in shares(run))),
    )


def shares(run: RunData) -> list[Share]:
    """Wall time per stage, longest stages and short ones alike, in order of execution."""
    names = {
        "prior": "prior ensemble",
        "train": "training",
        "sample": "sampling",
        "baseline": baseline_label(run.baseline_kind),
        "measure": "error analysis",
    }
    found = [(stage, text, run.seconds(stage)) for stage, text in names.items()]
    return [Share(stage, seconds, text) for stage, text, seconds in found if seconds]


def sections(run: RunData) -> list[Section]:
    """The figures of the page in reading order."""
    history_intro, history = ensemble_panels.history_panels(run)
    correlators = correlator_panels.correlator_panels(run)
    found = [
        _training(run),
        _weights(run),
        *_draws(run),
        _metropolis(run),
        Section(
            "history",
            "The slowest mode",
            history_intro,
            history,
            legend=True,
            absent="Neither chain has stored an observable to follow yet.",
        ),
        Section(
            "autocorrelation",
            "Autocorrelation",
            "Bands are one standard error; the triangle marks where the Gamma method stops summing. The faster a curve reaches "
            "zero, the more each step is worth, but steps of the two chains differ in price: see the cost table.",
            chain_panels.autocorrelation_panels(run),
            "There is no chain to analyse yet.",
            legend=True,
        ),
        Section(
            "distributions",
            "Distributions",
            "Both chains must sample the same theory, so the ratio underneath must scatter around one. Errors (shaded on the "
            "histogram) come from a bootstrap over blocks longer than the autocorrelation time.",
            chain_panels.distribution_panels(run),
            "There is no chain to histogram yet.",
            legend=True,
        ),
    ]
    if correlators:
        intro = "What depends on a separation: both chains, and the exact result where it is known."
        found.append(Section("correlators", "Correlators", intro, correlators, legend=True))
    if gradient_flow := gradient_flow_panels.gradient_flow_panels(run):
        intro = "Smoothed by the gradient flow, in lattice units."
        found.append(Section("gradient-flow", "Gradient flow", intro, gradient_flow, legend=True))
    return found


def _training(run: RunData) -> Section:
    panels = training_panels.training_panels(run)
    intro = training_panels.training_summary(run) if panels else ""
    source = section(run.config, "train").get("start_from")
    if not run.untrained:
        absent = "The training has not written its log yet."
    elif section(run.summary, "tuned_prior").get("acceptance"):
        absent = "No flow was trained. What was learned is which draws of the prior to keep, by least squares."
    elif source:
        absent = f"Nothing was trained here: the flow is that of {source}, as it is."
    else:
        absent = "Nothing was trained: the proposals come from an exact sampler or from the prior as it is."
    return Section("training", "Training", intro, panels, absent)


def _weights(run: RunData) -> Section:
    title = "Quality of the proposals"
    if run.flow is None:
        return Section("weights", title, "", absent="No proposals have been drawn yet.")
    panels = ensemble_panels.weight_panels(run.flow)
    equal = ensemble_panels.equal_weights(run.flow)
    absent = (
        "All weights agree: the proposals are exact, independent draws from the theory."
        if equal
        else "Too few proposals to draw."
    )
    intro = (
        ""
        if not panels
        else "How much the density of the flow differs from that of the theory, configuration by configuration."
    )
    return Section("weights", title, intro, panels, absent)


def _draws(run: RunData) -> list[Section]:
    panels = draws_panels.draws_panels(run)
    if not panels:
        return []
    intro = (
        "The determinant is estimated by pseudofermions. More of them for the same gauge field make the weights more equal, up "
        "to those with the exact determinant."
    )
    rows = draws_panels.monomial_rows(run)
    return [Section("pseudofermions", "Pseudofermions", intro, panels, table=rows)]


def _metropolis(run: RunData) -> Section:
    panels = ensemble_panels.metropolis_panels(run.flow) if run.flow else []
    return Section(
        "metropolis",
        "Metropolis history",
        "Each proposal is accepted or rejected in turn, which makes the chain exact whatever the quality of the flow."
        if not section(run.summary, "prior")
        else "How often a chain over the images would move. They are correlated, so nothing is estimated from it.",
        panels,
        "The Metropolis chain has not been formed yet.",
    )
