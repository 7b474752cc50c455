"""Rejection sampling of many items at once, without waiting for the slowest.

Repeating every item until all are accepted costs O(n log n) attempts, and under `vmap` n is the whole batch. Here a pool of
fixed width works off the list: each pass takes the first items not accepted yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Inexact, Int, PRNGKeyArray

Items = Inexact[Array, "... items"]
Attempt = Callable[[PRNGKeyArray, Any], tuple[Items, Bool[Array, " items"]]]

# Passes over the pool per item and attempt: more waste less on the last items, fewer waste less on starting each pass.
_PASSES = 16
_NARROWEST = 32


def rejection(attempt: Attempt, key: PRNGKeyArray, given: Any, start: Items) -> tuple[Items, Int[Array, " items"]]:
    """(accepted values, number of attempts of each).

    `attempt(key, given)` returns proposals and which of them are accepted, items on the LAST axis of every array, each
    independent of the others. `start` has the shape and dtype of the result. Under `vmap` items of the whole batch form one
    list, drawn from one key made of all keys, so that values are independent but depend on the company they are drawn in.
    """

    @jax.custom_batching.custom_vmap
    def run(key, given, start):
        return _pool(attempt, key, given, start)

    @run.def_vmap
    def _(size, batched, keys, given, start):
        key_batched, given_batched, start_batched = batched
        if key_batched:
            mixed = jnp.sum(jax.random.key_data(keys), dtype=jnp.uint32)
            keys = jax.random.fold_in(keys.reshape(-1)[0], mixed)

        def joined(x, is_batched):
            x = jnp.moveaxis(x, 0, -2) if is_batched else jnp.repeat(x[..., None, :], size, axis=-2)
            return x.reshape(*x.shape[:-2], -1)

        values, attempts = run(keys, jax.tree.map(joined, given, given_batched), joined(start, start_batched))

        def parted(x):
            return jnp.moveaxis(x.reshape(*x.shape[:-1], size, -1), -2, 0)

        return (parted(values), parted(attempts)), (True, True)

    return run(key, given, start)


def _pool(attempt: Attempt, key: PRNGKeyArray, given: Any, start: Items) -> tuple[Items, Int[Array, " items"]]:
    n = start.shape[-1]
    width = min(n, max(-(-n // _PASSES), _NARROWEST))

    def again(state):
        key, values, attempts, accepted = state
        key, draw = jax.random.split(key)
        items = jnp.nonzero(~accepted, size=width, fill_value=n)[0]  # n, out of bounds, where fewer are left
        found, good = attempt(draw, jax.tree.map(lambda x: jnp.take(x, items, axis=-1, mode="clip"), given))
        old = jnp.take(values, items, axis=-1, mode="clip")
        values = values.at[..., items].set(jnp.where(good, found, old), mode="drop")
        attempts = attempts.at[items].add(1, mode="drop")
        return key, values, attempts, accepted.at[items].set(good, mode="drop")

    first = (key, start, jnp.zeros((n,), jnp.int32), jnp.zeros((n,), bool))
    return jax.lax.while_loop(lambda state: ~jnp.all(state[3]), again, first)[1:3]
