"""The one primitive for neighbour access; everything that looks at a neighbouring site goes through it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped


def shift(field: Shaped[Array, "..."], mu: int, Nd: int, distance: int = 1) -> Shaped[Array, "..."]:
    """The field seen from each site at `distance` steps in direction `mu`: out(x) = field(x + distance * mu).

    The last `Nd` axes of `field` are the lattice; axes in front (colour, spin, features) are carried along.
    """
    if not 0 <= mu < Nd:
        raise ValueError(f"direction {mu} does not exist on a {Nd}-dimensional lattice")
    return jnp.roll(field, -distance, axis=mu - Nd)


def component(field: Shaped[Array, "..."], mu: int, Nd: int) -> Shaped[Array, "..."]:
    """Links of direction `mu`: drops the direction axis, which stands just before the `Nd` lattice axes."""
    if not 0 <= mu < Nd:
        raise ValueError(f"direction {mu} does not exist on a {Nd}-dimensional lattice")
    return jax.lax.index_in_dim(field, mu, axis=field.ndim - Nd - 1, keepdims=False)
