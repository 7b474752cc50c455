"""Elimination for many small real matrices at once, row and column axes first, without pivoting.

For matrices whose numerical range keeps away from zero, such as 1 + K with |K| < 1, or positive ones: the range of every
leading block lies within that of the whole, so no pivot vanishes and none needs exchanging.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Blocks = Float[Array, "n n ..."]


@jax.custom_jvp
def log_det(a: Blocks) -> Float[Array, "..."]:
    """log det, shape (...); nan if a pivot is not positive. Its derivative is tr(a^-1 da): one inverse, instead of going back
    through the elimination."""
    total = jnp.zeros_like(a[0, 0])
    for _ in range(a.shape[0]):
        total = total + jnp.log(a[0, 0])
        a = a[1:, 1:] - a[1:, :1] * (a[:1, 1:] / a[:1, :1])
    return total


@log_det.defjvp
def _log_det_jvp(primals, tangents):
    inverse, value = inverse_and_log_det(primals[0])
    return value, (jnp.swapaxes(inverse, 0, 1) * tangents[0]).sum(1).sum(0)


def inverse_and_log_det(a: Blocks) -> tuple[Blocks, Float[Array, "..."]]:
    """(a^-1, log det a) by Gauss-Jordan elimination in place. Exchanging the roles of the k-th unknown and the k-th right side,
    with pivot p = a_kk, is a change of rank one, a - (a e_k - e_k) (e_k^T a + e_k^T) / p."""
    n, total = a.shape[0], jnp.zeros_like(a[0, 0])
    for unit in np.eye(n):
        k, e = int(np.argmax(unit)), jnp.asarray(unit, a.dtype).reshape(n, *[1] * (a.ndim - 2))
        total = total + jnp.log(a[k, k])
        a = a - (a[:, k] - e)[:, None] * ((a[k] + e) / a[k, k][None])[None]
    return a, total
