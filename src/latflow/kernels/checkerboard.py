"""One parity of a lattice field packed into half its size, so that checkerboard sweeps compute nothing twice."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

from latflow.lattice import Geometry


def pack(geometry: Geometry, field: Shaped[Array, "*lattice"], parity: int | Int[Array, ""]) -> Shaped[Array, "*half"]:
    """The sites of one parity (sum of coordinates modulo 2), in an array whose last axis is half as long.

    `parity` may be traced; the last extent must be even.
    """
    pairs = field.reshape(*geometry.shape[:-1], geometry.shape[-1] // 2, 2)
    return jnp.where(_second(geometry, parity), pairs[..., 1], pairs[..., 0])


def unpack(
    geometry: Geometry, half: Shaped[Array, "*half"], field: Shaped[Array, "*lattice"], parity: int | Int[Array, ""]
) -> Shaped[Array, "*lattice"]:
    """`field` with the sites of one parity replaced by `half`."""
    pairs = field.reshape(*geometry.shape[:-1], geometry.shape[-1] // 2, 2)
    second = _second(geometry, parity)
    pairs = jnp.stack([jnp.where(second, pairs[..., 0], half), jnp.where(second, half, pairs[..., 1])], axis=-1)
    return pairs.reshape(geometry.shape)


def _second(geometry: Geometry, parity: int | Int[Array, ""]) -> Bool[Array, "*half"]:
    """Whether the active site is the second of its pair."""
    first_site_parity = geometry.parity()[..., ::2]
    return jnp.asarray(first_site_parity.astype(np.int32)) != parity
