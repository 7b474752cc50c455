"""What local samplers of gauge links share: sweeps over directions and parities, and their bookkeeping.

No staple of a link contains a link of the same direction and parity, so those are independent once the others are fixed.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, Int, PRNGKeyArray

from latflow.actions import AbstractAction, WilsonGauge
from latflow.groups import AbstractGroup
from latflow.kernels.base import Info, State

Links = Inexact[Array, "..."]


def sweep(action: WilsonGauge, key: PRNGKeyArray, links: Links, update: Callable[..., Links]) -> Links:
    """Every link replaced once: `update(key, links, mu, parity)` gives the new links of direction mu, which differ from the old
    ones at sites of that parity only."""
    geometry = action.geometry
    colours = (slice(None),) * len(action.group.colour_shape)

    def one_parity(links: Links, xs: tuple[Int[Array, ""], PRNGKeyArray]) -> tuple[Links, None]:
        parity, key = xs
        for mu, mu_key in enumerate(jax.random.split(key, geometry.Nd)):
            links = links.at[(*colours, mu)].set(update(mu_key, links, mu, parity))
        return links, None

    return jax.lax.scan(one_parity, links, (jnp.arange(2, dtype=jnp.int32), jax.random.split(key)))[0]


def swept(action: AbstractAction, links: Links, state: State) -> tuple[State, Info]:
    """State and diagnostics after a sweep that accepts everything."""
    new = action(links)
    one, finite = jnp.ones((), new.dtype), jnp.all(jnp.isfinite(links))
    return State(links, new), Info(one, jnp.asarray(True), new - state.action, finite)


def require_wilson(action: AbstractAction, group: type[AbstractGroup], name: str, what: str) -> WilsonGauge:
    """The action, if it is a Wilson action of that group on even extents; raises ValueError otherwise."""
    if not (isinstance(action, WilsonGauge) and isinstance(action.group, group)):
        raise ValueError(
            f"the {what} is made for the {name} Wilson action, got {type(action).__name__} of {action.group}; use HMC"
        )
    action.geometry.require_even(f"the checkerboard {what}")
    return action
