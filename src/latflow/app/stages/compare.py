"""The measure and compare stages: estimates from the ensemble, then the baseline beside them."""

from __future__ import annotations

from typing import Any

from latflow.app import analysis
from latflow.app.stages.baseline import baseline
from latflow.app.stages.context import Context
from latflow.app.stages.sample import require_ensemble


def measure(context: Context) -> dict[str, Any]:
    """Write `observables.json` from the ensemble, and from the baseline if there is one."""
    if context.config.has_flow:
        require_ensemble(context)
    elif not context.run.baseline.exists():
        context.output.note("measure   nothing yet: this run has no flow, and its baseline has not begun")
        return context.base_summary
    has_baseline = context.run.provenance.stage_complete("baseline") and context.run.baseline.exists()
    return _analyse(context, "measure", with_baseline=has_baseline)


def compare(context: Context) -> dict[str, Any]:
    """Run the baseline, or continue it, and write `observables.json` with both."""
    if context.config.has_flow:
        require_ensemble(context)
    baseline(context)
    return _analyse(context, "measure", with_baseline=context.config.baseline.kind != "none")


def _analyse(context: Context, stage: str, with_baseline: bool) -> dict[str, Any]:
    run = context.run
    signature = _signature(context, with_baseline)
    record = run.provenance.stage(stage)
    if record.get("complete") and record.get("of") == signature and run.observables.exists():
        return {**analysis.read_observables(run.observables), "seconds": run.provenance.seconds()}
    run.provenance.update(stage, complete=False)
    with context.timed(stage):
        context.output.note("measure   errors by the Gamma method")
        if not context.config.has_flow:
            result, exported = analysis.summarise_baseline(context.base_summary, context.config, context.boson, run.baseline)
        else:
            if context.analysis is None:
                context.analysis = analysis.analyse(run.ensemble, context.config, context.action)
            chain = run.baseline if with_baseline else None
            result, exported = analysis.summarise(context.base_summary, context.analysis, context.config, context.action, chain)
    result["seconds"] = run.provenance.seconds()
    result["report"] = run.report.name
    analysis.write_observables(run.observables, result, exported)
    run.provenance.update(stage, complete=True, of=signature)
    return result


def _signature(context: Context, with_baseline: bool) -> dict[str, Any]:
    """What an analysis was made of: it is repeated when any of this changes."""
    from latflow.io.ensemble import EnsembleFile

    rows: dict[str, Any] = {"measure": context.config.measure.model_dump(mode="json"), "ensemble": 0, "baseline": 0}
    if context.config.has_flow:
        with EnsembleFile.open(context.run.ensemble) as file:
            rows |= {"ensemble": file.n_committed, "metadata": file.metadata}
    if with_baseline:
        with EnsembleFile.open(context.run.baseline) as file:
            rows["baseline"] = file.n_committed
    return rows
