"""The sample stage: proposals of the flow, measured as they are drawn, and the exact chain made of them."""

from __future__ import annotations

from typing import Any

from latflow.app import builders
from latflow.app.analysis import weights_summary
from latflow.app.measurements import functions
from latflow.app.stages import models, prior, pseudofermions, tuning
from latflow.app.stages.context import Context
from latflow.errors import LatflowError
from latflow.flows import refined
from latflow.io.ensemble import EnsembleFile
from latflow.samplers import draw_proposals


def sample(context: Context) -> dict[str, Any]:
    """Make `ensemble.h5` hold `sample.num_samples` proposals of the trained flow."""
    if not context.config.has_flow:
        return context.base_summary
    config, run = context.config.sample, context.run
    if context.config.train.steps == 0 and not models.exists(context):
        models.save_untrained(context)
    model = refined(models.load(context), config.refine)
    fingerprint = _source(context)
    done = _drawn(context, fingerprint)
    if done < config.num_samples:
        run.provenance.update("sample", complete=False)
        action = pseudofermions.target(context, model)  # may make a pilot run
        spectra = _spectra(context, model)
        with context.timed("sample") as timer, context.progress("sample", config.num_samples, done) as progress:

            def on_progress(drawn: int, total: int) -> None:
                progress.update(drawn)
                timer.tick()

            draw_proposals(
                model,
                action,
                functions(context.config, context.action),
                run.ensemble,
                context.key("sample"),
                config.num_samples,
                config.batch_size,
                theory=context.theory,
                metadata={
                    "model": fingerprint,
                    "recipe": context.config.name,
                    "prior": prior.facts(context),
                    "tuned": tuning.facts(context),
                    "spectra": spectra,
                },
                save_configurations=config.save_configurations,
                max_audit=config.max_audit,
                marginal=context.exact_action if builders.has_exact_determinant(context.config) else None,
                on_progress=on_progress,
                stop=context.stop,
            )
    else:
        context.output.note(f"sample    complete: {done} proposals")
    run.provenance.update("sample", complete=True, num_samples=config.num_samples)
    return _result(context)


def _spectra(context: Context, model: Any) -> list[dict[str, Any]] | None:
    """Of the conditional flows of a joint model, computed once."""
    if not context.config.is_joint:
        return None
    known = context.run.provenance.stage("sample")
    if "spectra" not in known:
        context.run.provenance.update("sample", spectra=pseudofermions.spectra(context, model))
    return context.run.provenance.stage("sample")["spectra"]


def _source(context: Context) -> str:
    """What the proposals depend on: the model, and how finely it is integrated. Other steps are another density."""
    fingerprint, refine = models.fingerprint(context.run.model), context.config.sample.refine
    if (prior_digest := tuning.digest(context)) is not None:
        fingerprint += f" prior {prior_digest}"
    fingerprint += pseudofermions.describe(context)
    return fingerprint if refine == 1 else f"{fingerprint} refined {refine}"


def _drawn(context: Context, fingerprint: str) -> int:
    """Proposals in the ensemble file, which is discarded if another model drew them."""
    path = context.run.ensemble
    if not path.exists():
        return 0
    with EnsembleFile.open(path) as file:
        file.require(kind="flow", theory=context.theory)
        rows, drawn_by = file.n_committed, (file.metadata or {}).get("model")
    if drawn_by == fingerprint:
        return rows
    context.output.note("sample    the model was trained further, or is integrated differently: the ensemble is drawn anew")
    path.unlink()
    context.run.draws.unlink(missing_ok=True)
    context.run.provenance.forget("sample")
    return 0


def _result(context: Context) -> dict[str, Any]:
    with EnsembleFile.open(context.run.ensemble) as file:
        weights = weights_summary(file, context.action)
    return {**context.base_summary, **weights, "seconds": context.run.provenance.seconds()}


def require_ensemble(context: Context) -> None:
    """Raise LatflowError unless the ensemble is there, complete, of this theory and of the present model."""
    path, wanted = context.run.ensemble, context.config.sample.num_samples
    command = f"run `latflow sample {context.run.path}` first"
    if not path.exists():
        raise LatflowError(f"{context.run.path} holds no ensemble", command)
    with EnsembleFile.open(path) as file:
        file.require(kind="flow", theory=context.theory)
        rows, drawn_by = file.n_committed, (file.metadata or {}).get("model")
    if rows < wanted:
        raise LatflowError(f"the ensemble in {path} holds {rows} of {wanted} proposals", command)
    if models.exists(context) and drawn_by != _source(context):
        raise LatflowError(f"the ensemble in {path} was drawn by an earlier model than {context.run.model}", command)
