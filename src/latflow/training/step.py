"""One optimiser step, compiled once: draw, weigh, differentiate, update; a non-finite step changes nothing but counters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from latflow.actions import AbstractAction
from latflow.models import FlowModel
from latflow.training.losses import Loss
from latflow.training.settings import TrainSettings


class TrainState(NamedTuple):
    """What a checkpoint holds. `skipped` counts bad steps in all, `bad_run` those since the last good one."""

    parameters: FlowModel
    optimiser: Any
    step: Int[Array, ""]
    skipped: Int[Array, ""]
    bad_run: Int[Array, ""]


class StepInfo(NamedTuple):
    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    coupling: Float[Array, ""]
    log_weight: Float[Array, " batch"]


def initial_state(parameters: FlowModel, settings: TrainSettings) -> TrainState:
    # Three buffers, not one three times: the state is donated to the step.
    counters = [jnp.zeros((), jnp.int32) for _ in range(3)]
    return TrainState(parameters, settings.optimiser().init(eqx.filter(parameters, eqx.is_array)), *counters)


def annealed(action: AbstractAction, settings: TrainSettings, step: Int[Array, ""]) -> tuple[AbstractAction, Float[Array, ""]]:
    """The action at this step's coupling, and the coupling (nan for actions without one)."""
    beta = getattr(action, "beta", None)
    if beta is None:
        return action, jnp.asarray(jnp.nan, jnp.float32)
    final = jnp.asarray(beta, jnp.float32)
    if settings.anneal_from is None or not settings.anneal_steps:
        return action, final
    fraction = jnp.minimum(step.astype(jnp.float32) / settings.anneal_steps, 1)
    now = settings.anneal_from + (final - settings.anneal_from) * fraction
    return eqx.tree_at(lambda a: a.beta, action, now), now


def make_step(
    rest: FlowModel, action: AbstractAction, settings: TrainSettings, loss: Loss
) -> Callable[[TrainState, PRNGKeyArray], tuple[TrainState, StepInfo]]:
    """The jitted step. The key of step i is fold_in(key, i), so that a resumed run repeats an uninterrupted one."""
    optimiser = settings.optimiser()
    # an argument of the program, not a constant in it: a stored prior may hold gigabytes
    arrays, structure = eqx.partition(rest, eqx.is_array)

    def step(state: TrainState, key: PRNGKeyArray, arrays: FlowModel) -> tuple[TrainState, StepInfo]:
        rest = eqx.combine(arrays, structure)
        now, coupling = annealed(action, settings, state.step)
        key = jax.random.fold_in(key, state.step)
        (value, log_weight), gradient = jax.value_and_grad(loss, has_aux=True)(state.parameters, rest, now, key)
        norm = optax.tree.norm(gradient)
        good = jnp.isfinite(value) & jnp.isfinite(norm)
        # Optax takes any pytree; its annotations know fewer.
        updates, moments = optimiser.update(gradient, state.optimiser, state.parameters)  # type: ignore[arg-type]
        parameters: FlowModel = optax.apply_updates(state.parameters, updates)  # type: ignore

        def keep(new, old):
            return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)

        bad = (~good).astype(jnp.int32)
        new = TrainState(
            keep(parameters, state.parameters),
            keep(moments, state.optimiser),
            state.step + 1,
            state.skipped + bad,
            (state.bad_run + 1) * bad,
        )
        return new, StepInfo(value, norm, coupling, log_weight)

    return eqx.Partial(jax.jit(step, donate_argnums=0), arrays=arrays)
