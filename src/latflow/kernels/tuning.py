"""Step sizes that reach a wanted acceptance, found by dual averaging while a batch of chains warms up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from latflow.kernels.base import AbstractKernel, State

# Constants of 1111.4246, Sec. 3.2.1: shrinkage towards log(10 eps_0), early stabilisation, averaging exponent.
_GAMMA, _T0, _KAPPA = 0.05, 10, 0.75
_REACH = math.log(100.0)
_PIECE = 25  # steps per compiled call


class Tuning(NamedTuple):
    """The tuned kernel, the chains as warm-up left them, and its history: mean acceptance and step size of every step."""

    kernel: AbstractKernel
    states: State
    acceptance: Float[Array, " steps"]
    step_size: Float[Array, " steps"]


class _Average(NamedTuple):
    error: Float[Array, ""]
    log_step: Float[Array, ""]
    log_mean: Float[Array, ""]


def _step_size(kernel: Any) -> Any:
    return kernel.step_size


def tune_step_size(
    kernel: AbstractKernel,
    key: PRNGKeyArray,
    states: State,
    target_acceptance: float = 0.8,
    num_steps: int = 200,
    where: Callable[[Any], Any] = _step_size,
    axis: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tuning:
    """Dual averaging (1111.4246, Eq. (6)) of one step size, common to all chains, on their mean acceptance.

    `states` is a batch of chains along `axis`; `where` names the scalar array leaf to tune, e.g. `kernel.width`. It stays
    within a factor 100 of where it starts. The number of steps of an HMC trajectory does not change, so its length does:
    continue with `tuned.kernel.with_tau(tau)` to restore it. Steps taken here do not leave exp(-S) invariant: they are warm-up.
    `on_progress` gets (steps done, `num_steps`) now and then, and may raise to stop.

    Raises ValueError for a target outside (0, 1), fewer than 20 steps, or a kernel without such a leaf.
    """
    if not 0 < target_acceptance < 1:
        raise ValueError(f"the target acceptance must lie between 0 and 1 (try 0.8), got {target_acceptance!r}")
    if num_steps < 20:
        raise ValueError(f"tuning a step size takes at least 20 warm-up steps (try 200), got {num_steps!r}")
    leaf = getattr(kernel, "step_size", None) if where is _step_size else where(kernel)
    if leaf is None or not eqx.is_inexact_array(leaf) or leaf.shape != ():
        raise ValueError(f"{type(kernel).__name__} has no step size to tune; name a scalar leaf with `where`")
    target, start = jnp.asarray(target_acceptance, leaf.dtype), jnp.log(where(kernel))
    average, history = _Average(jnp.zeros_like(start), start, start), []
    for done in range(0, num_steps, _PIECE):
        size = min(_PIECE, num_steps - done)
        counts = jnp.arange(done + 1, done + size + 1, dtype=jnp.int32)
        states, average, piece = _tune(kernel, key, states, average, target, counts, where, axis)
        history.append(piece)
        if on_progress is not None:
            jax.block_until_ready(average)
            on_progress(done + size, num_steps)
    acceptance, step_size = (jnp.concatenate(column) for column in zip(*history, strict=True))
    return Tuning(eqx.tree_at(where, kernel, jnp.exp(average.log_mean)), states, acceptance, step_size)


@eqx.filter_jit
def _tune(
    kernel: AbstractKernel,
    key: PRNGKeyArray,
    states: State,
    average: _Average,
    target: Float[Array, ""],
    counts: Int[Array, " steps"],
    where: Callable[[Any], Any],
    axis: int,
) -> tuple[State, _Average, tuple[Array, Array]]:
    """The steps of these numbers, the first being 1."""
    start = jnp.log(where(kernel))
    chains = states.action.shape[0]

    def one(carry: tuple[State, _Average], count: Array) -> tuple[tuple[State, _Average], tuple[Array, Array]]:
        states, average = carry
        keys = jax.random.split(jax.random.fold_in(key, count), chains)
        trial = eqx.tree_at(where, kernel, jnp.exp(average.log_step))
        states, info = jax.vmap(trial.step, in_axes=(0, axis), out_axes=(axis, 0))(keys, states)
        acceptance = jnp.mean(info.acceptance.astype(start.dtype))
        m = count.astype(start.dtype)
        weight = 1 / (m + _T0)
        error = (1 - weight) * average.error + weight * (target - acceptance)
        log_step = start + math.log(10.0) - jnp.sqrt(m) / _GAMMA * error
        log_step = jnp.clip(log_step, start - _REACH, start + _REACH)
        eta = m**-_KAPPA
        log_mean = eta * log_step + (1 - eta) * average.log_mean
        return (states, _Average(error, log_step, log_mean)), (acceptance, jnp.exp(average.log_step))

    (states, average), history = jax.lax.scan(one, (states, average), counts)
    return states, average, history
