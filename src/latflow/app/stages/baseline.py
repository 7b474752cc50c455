"""The baseline chain: what the flow is compared with."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax

from latflow.app import builders
from latflow.app.config.baseline import HMCBaseline, NoBaseline
from latflow.app.measurements import functions
from latflow.app.stages.context import Context
from latflow.io.ensemble import EnsembleFile
from latflow.kernels import AbstractKernel, tune_step_size
from latflow.samplers import run_chain

_TUNING_STEPS = 200


def baseline(context: Context) -> None:
    """Make `baseline.h5` hold `baseline.trajectories` steps of every chain; nothing for the kind "none"."""
    config, run = context.config.baseline, context.run
    if isinstance(config, NoBaseline):
        return
    kernel = builders.build_baseline(context.config)
    if run.provenance.stage("baseline").get("complete") and _rows(context) >= config.trajectories:
        context.output.note(f"baseline  complete: {config.trajectories} trajectories")
        return
    run.provenance.update("baseline", complete=False)
    start_key, tune_key, chain_key = jax.random.split(context.key("baseline"), 3)
    fields = start_fields(context, config.start, start_key, config.chains)
    with context.timed("baseline") as timer:
        settings = {**config.model_dump(mode="json", exclude={"trajectories"}), "precision": context.config.precision}
        if isinstance(config, HMCBaseline):
            num_steps = config.num_steps if config.target_acceptance == "none" else _known_num_steps(context)
            if num_steps is None:
                num_steps, fields = _tuned(context, config, kernel, fields, tune_key)
            kernel = builders.build_baseline(
                context.config.model_copy(update={"baseline": config.model_copy(update={"num_steps": num_steps})})
            )
            settings["tuned_num_steps"] = num_steps
        total = config.thermalisation + config.trajectories
        with context.progress("baseline", total) as progress:

            def on_progress(done: int, total: int) -> None:
                progress.update(done)
                timer.tick()

            run_chain(
                kernel,
                fields,
                run.baseline,
                chain_key,
                config.trajectories,
                thermalisation=config.thermalisation,
                observables=functions(context.config, context.boson),
                theory=context.theory,
                settings=settings,
                metadata={"recipe": context.config.name},
                on_progress=on_progress,
                stop=context.stop,
            )
    run.provenance.update("baseline", complete=True, trajectories=config.trajectories)


def start_fields(context: Context, start: str, key: Any, chains: int) -> Any:
    """(chains, *field), where every chain begins."""
    begin = jax.jit(jax.vmap(lambda key: builders.start_field(context.config, context.boson, start, key)))
    return begin(jax.random.split(key, chains))


def _rows(context: Context) -> int:
    if not context.run.baseline.exists():
        return 0
    with EnsembleFile.open(context.run.baseline) as file:
        file.require(kind="chain", theory=context.theory)
        return file.n_committed


def _known_num_steps(context: Context) -> int | None:
    """The number of integration steps of a chain that has begun: tuning is done once."""
    if not context.run.baseline.exists():
        return None
    with EnsembleFile.open(context.run.baseline) as file:
        known: Any = (file.settings or {}).get("settings") or {}
    number = known.get("tuned_num_steps")
    return number if isinstance(number, int) and number > 0 else None


def _tuned(context: Context, config: HMCBaseline, kernel: AbstractKernel, fields: Any, key: Any) -> tuple[int, Any]:
    """(steps into which a trajectory of length tau must be cut for the wanted acceptance, fields after the tuning).

    The chains go on from those fields: far from equilibrium the tuned step would be too long, and tuning has led them there
    with steps that were short enough.
    """
    states = eqx.filter_jit(eqx.filter_vmap(kernel.init))(fields)
    target: Any = config.target_acceptance
    with context.progress("tuning", _TUNING_STEPS) as progress:

        def on_progress(done: int, total: int) -> None:
            progress.update(done)
            context.stop.check(f"{done} of {total} steps that tune the step size, which begin anew")

        tuned = tune_step_size(kernel, key, states, target, _TUNING_STEPS, on_progress=on_progress)
    return tuned.kernel.with_tau(config.tau).num_steps, tuned.states.field  # type: ignore[attr-defined]
