"""The train stage: fit the flow, or continue where it stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from latflow.actions import AbstractAction
from latflow.app import builders
from latflow.app.analysis import usable
from latflow.app.stages import models
from latflow.app.stages.context import Context
from latflow.app.stages.training_log import TrainingLog
from latflow.models import JointTarget
from latflow.samplers import weigh_proposals
from latflow.statistics import effective_sample_size
from latflow.training import TrainSettings, fit

_SHOWN = ("loss", "ess", "acceptance", "grad_norm", "learning_rate", "skipped", "coupling")


def train(context: Context) -> dict[str, Any]:
    """Make `model/` hold a flow trained for `train.steps` steps."""
    if not context.config.has_flow:
        return context.base_summary
    wanted = context.config.train.steps
    if models.exists(context) and int(models.description(context).get("steps", -1)) >= wanted:
        if wanted:
            context.output.note(f"train     complete: {wanted} steps")
        return _result(context, models.description(context))
    model = models.initial(context)  # a stored prior is drawn here, and timed by itself
    with context.timed("train") as timer:
        facts: dict[str, Any] = {"steps": 0}
        if wanted:
            model, facts = _fit(context, model, timer)
        models.save(context, model, **facts)
    context.run.provenance.update("train", complete=True, steps=wanted)
    return _result(context, facts)


def _fit(context: Context, model: Any, timer: Any) -> tuple[Any, dict[str, Any]]:
    config, log = context.config.train, TrainingLog(context.run.training_log)
    settings = TrainSettings(**config.model_dump(exclude={"start_from", "stage", "evaluate"}))
    context.run.provenance.update("train", complete=False, steps=config.steps)
    last: dict[str, Any] = {}
    with context.progress("train", config.steps, curves=("loss", "ess")) as progress:

        def on_log(record: Mapping[str, Any]) -> None:
            last.update(record)
            log.append({**record, "seconds": round(timer.seconds, 3)})
            progress.update(int(record["step"]), {k: record[k] for k in _SHOWN if k in record})
            timer.tick()

        result = fit(
            model,
            _target(context),
            settings,
            context.key("train"),
            directory=context.run.checkpoints,
            on_log=on_log,
            should_stop=lambda: bool(context.stop),
            target=builders.exact_samples(context.config, context.boson),
            evaluate=_evaluation(context),
        )
    if result.interrupted:
        context.stop.check(f"{result.steps} of {config.steps} training steps")
    known = {key: last.get(key) for key in ("loss", "ess", "acceptance")}
    return result.model, {"steps": int(result.steps), "skipped": int(result.skipped), **known}


def _target(context: Context) -> AbstractAction:
    """What is trained towards: for a joint model the regulated action; for its marginal alone that with the exact determinant,
    or where this is too large a `JointTarget`, which says that it must be estimated."""
    joint = builders.build_target(context.config, training=True)
    if joint is None:
        return context.action
    if context.config.train.stage != "marginal":
        return joint
    return context.exact_action if builders.has_exact_determinant(context.config) else joint


def _evaluation(context: Context) -> Callable[[Any, int], dict[str, Any]] | None:
    size = context.config.train.evaluate
    if not size:
        return None
    marginal = context.exact_action if not context.config.is_joint or builders.has_exact_determinant(context.config) else None
    key, action = jax.random.fold_in(context.key("train"), 2**31 - 1), context.action
    if isinstance(action, JointTarget):
        action = dataclasses.replace(action, draws=1)

    def evaluate(model: Any, step: int) -> dict[str, Any]:
        found = weigh_proposals(model, action, jax.random.fold_in(key, step), size, marginal=marginal)
        return {
            f"{name}_ess": effective_sample_size(usable(log_weight)) if np.isfinite(log_weight).any() else 0.0
            for name, log_weight in found.items()
        }

    return evaluate


def _result(context: Context, facts: Mapping[str, Any]) -> dict[str, Any]:
    shown = {key: facts.get(key) for key in ("steps", "loss", "ess", "acceptance", "skipped")}
    return {**context.base_summary, **shown, "seconds": context.run.provenance.seconds(), "model": str(context.run.model)}
