"""The stages of a run. Each finds out what is already there and does the rest."""

from __future__ import annotations

from typing import Any

from latflow.app.stages.compare import compare, measure
from latflow.app.stages.context import Context
from latflow.app.stages.sample import sample
from latflow.app.stages.train import train

__all__ = ["Context", "compare", "measure", "perform", "report", "sample", "train"]


def report(context: Context) -> dict[str, Any]:
    """Write `report.html`."""
    from latflow.app.analysis import read_observables
    from latflow.app.report import write_report

    with context.timed("report"):
        path = write_report(context.run.path)
    context.run.provenance.update("report", complete=True)
    summary = read_observables(context.run.observables)
    return {**summary, "seconds": context.run.provenance.seconds(), "report": str(path)}


_STAGES = {"train": train, "sample": sample, "measure": measure, "compare": compare, "report": report}


def perform(stage: str, context: Context) -> dict[str, Any]:
    """Do one stage by name and return its result document."""
    return _STAGES[stage](context)
