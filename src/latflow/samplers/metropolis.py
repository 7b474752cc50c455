"""Independence Metropolis: proposals are made in parallel, accepting and rejecting them is one cheap scan."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


class Position(NamedTuple):
    """Where a chain stands: at the proposal number `index`, of weight `log_weight`, after `count` proposals.

    `log_weight` is minus infinity as long as no proposal was usable; `Position.start()` is that of a new chain.
    """

    index: Int[Array, ""]
    log_weight: Float[Array, ""]
    count: Int[Array, ""]

    @classmethod
    def start(cls) -> Position:
        return cls(jnp.asarray(0), jnp.asarray(-jnp.inf), jnp.asarray(0))


class MetropolisChain(NamedTuple):
    """For every proposal, the number of the proposal the chain is at afterwards, and whether the chain moved to this one."""

    chain_index: Int[Array, " n"]
    accepted: Bool[Array, " n"]


@jax.jit
def independence_metropolis(
    key: PRNGKeyArray, log_weight: Float[Array, " n"], start: Position | None = None
) -> MetropolisChain:
    """The Markov chain that accepts proposal i with probability min(1, w_i / w_current) (2101.08176, Eq. 15).

    `log_weight` = -S - log q of independent proposals. Weights that are zero or not finite are never accepted (count them with
    `count_unusable`). The first usable proposal is the start, and what comes before it is assigned to it too. With `start`,
    the chain goes on from an earlier call and numbers its proposals onwards; proposal i always consumes the random number of
    `fold_in(key, i)`, so one call and several calls give the same chain.
    """
    weights = jnp.where(jnp.isfinite(log_weight), log_weight, -jnp.inf)
    start = Position.start() if start is None else start
    numbers = start.count + jnp.arange(weights.size, dtype=start.index.dtype)
    uniform = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i), (), weights.dtype))(numbers)

    def step(current: tuple[Array, Array], proposal: tuple[Array, Array, Array]):
        (index, weight), (number, candidate, log_u) = current, proposal
        accept = log_u < candidate - weight
        index, weight = jnp.where(accept, number, index), jnp.where(accept, candidate, weight)
        return (index, weight), (index, accept)

    first, unstarted = jnp.argmax(jnp.isfinite(weights)), jnp.isneginf(start.log_weight)
    weight = jnp.where(unstarted, weights[first], start.log_weight.astype(weights.dtype))
    current = (jnp.where(unstarted, numbers[first], start.index), weight)
    return MetropolisChain(*jax.lax.scan(step, current, (numbers, weights, jnp.log(uniform)))[1])


def count_unusable(log_weight: Float[Array, " n"]) -> int:
    """Number of proposals whose weight is zero or not finite."""
    return int(jnp.sum(~jnp.isfinite(log_weight)))
