"""Double precision where it decides, whatever the precision of the field."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def working_dtype():
    """float64, or float32 while `jax_enable_x64` is off."""
    return jax.dtypes.canonicalize_dtype(jnp.float64)


def double_sum(x: Float[Array, "..."]) -> Float[Array, ""]:
    """The sum of all entries, accumulated in the working dtype.

    Actions and log Jacobians are sums over the lattice whose differences decide: at 16^4 the Wilson action is of the order of
    10^6, and float32 knows it to a tenth. Single terms in float32 are good enough, their sum is not.
    """
    return jnp.sum(x, dtype=working_dtype())
