"""Elimination for many small real matrices at once, row and column axes first, without pivoting.

For matrices whose numerical range keeps away from zero, such as 1 + K with |K| < 1: the range of every leading block
lies within that of the whole, so no pivot vanishes and none needs exchanging.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

Blocks = Float[Array, "n n ..."]


def log_det(a: Blocks) -> Float[Array, "..."]:
    """log det, shape (...); nan if a pivot is not positive."""
    total = jnp.zeros_like(a[0, 0])
    for _ in range(a.shape[0]):
        total = total + jnp.log(a[0, 0])
        a = a[1:, 1:] - a[1:, :1] * (a[:1, 1:] / a[:1, :1])
    return total


def solve(a: Blocks, b: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
    """x with a x = b."""
    rows, rest = [], jnp.concatenate([a, b[:, None]], axis=1)
    for _ in range(a.shape[0]):
        rows.append(rest[0] / rest[:1, 0])
        rest = rest[1:, 1:] - rest[1:, :1] * rows[-1][None, 1:]
    x: list[Array] = []
    for row in reversed(rows):  # 1, the coefficients of what is known, the right side
        value = row[-1]
        for known, coefficient in zip(x, row[1:-1], strict=True):
            value = value - coefficient * known
        x.insert(0, value)
    return jnp.stack(x)
