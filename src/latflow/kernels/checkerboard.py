"""One parity of a lattice field packed into half its size, so that checkerboard sweeps compute nothing twice."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

from latflow.lattice import Geometry


def pack(geometry: Geometry, field: Shaped[Array, "..."], parity: int | Int[Array, ""]) -> Shaped[Array, "..."]:
    """The sites of one parity (sum of coordinates modulo 2), in an array whose last axis is half as long.

    Axes in front of the lattice (colour) are carried along. `parity` may be traced; the last extent must be even.
    """
    pairs = _pairs(geometry, field)
    return jnp.where(_second(geometry, parity, field.ndim), pairs[..., 1], pairs[..., 0])


def unpack(
    geometry: Geometry, half: Shaped[Array, "..."], field: Shaped[Array, "..."], parity: int | Int[Array, ""]
) -> Shaped[Array, "..."]:
    """`field` with the sites of one parity replaced by `half`."""
    pairs = _pairs(geometry, field)
    second = _second(geometry, parity, field.ndim)
    pairs = jnp.stack([jnp.where(second, pairs[..., 0], half), jnp.where(second, half, pairs[..., 1])], axis=-1)
    return pairs.reshape(field.shape)


def _pairs(geometry: Geometry, field: Shaped[Array, "..."]) -> Shaped[Array, "... 2"]:
    """Neighbouring sites of the last direction on an axis of their own."""
    return field.reshape(*field.shape[:-1], geometry.shape[-1] // 2, 2)


def _second(geometry: Geometry, parity: int | Int[Array, ""], rank: int) -> Bool[Array, "..."]:
    """Whether the active site is the second of its pair; axes of length one in front make up the rank."""
    first_site_parity = geometry.parity()[..., ::2].astype(np.int32)
    return jnp.asarray(first_site_parity.reshape((1,) * (rank - geometry.Nd) + first_site_parity.shape)) != parity
