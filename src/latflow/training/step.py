"""One optimiser step, compiled once: draw, weigh, differentiate, update; a non-finite step changes nothing but counters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from latflow.actions import AbstractAction
from latflow.models import Model
from latflow.training.losses import Loss
from latflow.training.settings import TrainSettings


class TrainState(NamedTuple):
    """What a checkpoint holds. `skipped` counts bad steps in all, `bad_run` those since the last good one."""

    parameters: Model
    optimiser: Any
    step: Int[Array, ""]
    skipped: Int[Array, ""]
    bad_run: Int[Array, ""]


class StepInfo(NamedTuple):
    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    coupling: Float[Array, ""]
    log_weight: Float[Array, " batch"]


def initial_state(parameters: Model, settings: TrainSettings) -> TrainState:
    # Three buffers, not one three times: the state is donated to the step.
    counters = [jnp.zeros((), jnp.int32) for _ in range(3)]
    moments = () if settings.optimizer == "gauss-newton" else settings.optimiser().init(eqx.filter(parameters, eqx.is_array))
    return TrainState(parameters, moments, *counters)


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


# (state, rest, action, key) -> (parameters, moments, loss, norm of the gradient, log weights)
Advance = Callable[[TrainState, Model, AbstractAction, PRNGKeyArray], tuple[Model, Any, Array, Array, Array]]


def _descent(settings: TrainSettings, loss: Loss) -> Advance:
    optimiser = settings.optimiser()

    def advance(state: TrainState, rest: Model, action: AbstractAction, key: PRNGKeyArray):
        (value, log_weight), gradient = jax.value_and_grad(loss, has_aux=True)(state.parameters, rest, action, key)
        # Optax takes any pytree; its annotations know fewer.
        updates, moments = optimiser.update(gradient, state.optimiser, state.parameters)  # type: ignore[arg-type]
        parameters: Model = optax.apply_updates(state.parameters, updates)  # type: ignore
        return parameters, moments, value, optax.tree.norm(gradient), log_weight

    return advance


def _gauss_newton(settings: TrainSettings) -> Advance:
    """Least squares for the variance of log w over draws z of the prior: with J_i = d log w(z_i) / d theta, means taken off,

        (J^T J + damping D) delta = -J^T log w,   D = diag max(J^T J, max(diag J^T J) / 100).

    The differences of couplings that stored ensembles are mapped over are small, so log w is nearly linear in theta, and two or
    three steps end at the minimum, where Adam takes hundreds. One draw at a time, for a Jacobian with few columns.
    """

    def advance(state: TrainState, rest: Model, action: AbstractAction, key: PRNGKeyArray):
        flat, unravel = jax.flatten_util.ravel_pytree(state.parameters)
        z, log_r = rest.prior.draw(key, settings.batch_size)

        def log_weight(flat: Array, z: Array, log_r: Array) -> Array:
            y, log_det = eqx.combine(unravel(flat), rest).bijection.forward_and_log_det(z)
            return log_det - log_r - action(y)

        def row(draw: tuple[Array, Array]) -> tuple[Array, Array]:
            return jax.value_and_grad(log_weight)(flat, *draw)

        value, J = jax.lax.map(row, (jnp.moveaxis(z, -1, 0), log_r))
        J = J.astype(value.dtype)
        J = J - jnp.mean(J, 0, keepdims=True)
        gradient, curvature = J.T @ (value - jnp.mean(value)), J.T @ J
        # the floor: a parameter without influence, whose column of J is rounding, stays where it is
        scale = jnp.maximum(jnp.diag(curvature), jnp.max(jnp.diag(curvature)) / 100)
        delta = jnp.linalg.solve(curvature + settings.damping * jnp.diag(scale), -gradient)
        norm = jnp.linalg.norm(gradient) / settings.batch_size
        return unravel(flat + delta.astype(flat.dtype)), state.optimiser, jnp.var(value) / 2, norm, value

    return advance


def make_step(
    rest: Model, action: AbstractAction, settings: TrainSettings, loss: Loss
) -> Callable[[TrainState, PRNGKeyArray], tuple[TrainState, StepInfo]]:
    """The jitted step. The key of step i is fold_in(key, i), so that a resumed run repeats an uninterrupted one."""
    advance = _gauss_newton(settings) if settings.optimizer == "gauss-newton" else _descent(settings, loss)
    # an argument of the program, not a constant in it: a stored prior may hold gigabytes
    arrays, structure = eqx.partition(rest, eqx.is_array)

    def step(state: TrainState, key: PRNGKeyArray, arrays: Model) -> tuple[TrainState, StepInfo]:
        rest = eqx.combine(arrays, structure)
        now, coupling = annealed(action, settings, state.step)
        key = jax.random.fold_in(key, state.step)
        parameters, moments, value, norm, log_weight = advance(state, rest, now, key)
        good = jnp.isfinite(value) & jnp.isfinite(norm)

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
