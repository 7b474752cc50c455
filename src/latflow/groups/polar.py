"""Polar factor, orthonormalisation, adjugate and determinant of small matrices without LAPACK, colour axes first."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex

from latflow.groups.exponential import matrix_product, trace_product

Matrices = Complex[Array, "Nc Nc ..."]

# Nine scaled Newton steps reach rounding from any condition number a double can represent (Higham, Functions of Matrices,
# Sec. 8.6); one more pays for the accuracy of the adjugate.
_STEPS = 10


def adjugate_and_determinant(a: Matrices) -> tuple[Matrices, Complex[Array, "..."]]:
    """(adj a, det a) with a adj a = det a, by the recursion of Faddeev and LeVerrier:
    M_1 = 1, M_{k+1} = a M_k - tr(a M_k)/k, adj a = (-1)^(Nc-1) M_Nc, det a = (-1)^(Nc-1) tr(a M_Nc)/Nc."""
    Nc = a.shape[0]
    unit = jnp.eye(Nc, dtype=a.dtype).reshape(Nc, Nc, *[1] * (a.ndim - 2))
    m = jnp.broadcast_to(unit, a.shape)
    for k in range(1, Nc):
        product = a if k == 1 else matrix_product(a, m)
        m = product - unit * (trace_product(a, m) / k)[None, None]
    sign = (-1) ** (Nc - 1)
    return sign * m, sign * trace_product(a, m) / Nc


def polar(a: Matrices) -> Matrices:
    """V = a (a^dagger a)^(-1/2), the unitary matrix nearest to a, by Newton's iteration Y <- (z Y + (z Y)^(-dagger))/2 with
    the scaling z = (|Y^-1|_F / |Y|_F)^(1/2). nan for singular matrices."""

    def step(y: Matrices, _: None) -> tuple[Matrices, None]:
        adjugate, determinant = adjugate_and_determinant(y)
        inverse = jnp.conj(jnp.swapaxes(adjugate * (1 / determinant)[None, None], 0, 1))
        scale = jnp.sqrt(jnp.sqrt(_norm2(inverse) / _norm2(y)))
        return (scale / 2)[None, None] * y + (0.5 / scale)[None, None] * inverse, None

    # a common factor would overflow in the determinant long before it does in the entries
    start = a / jnp.sqrt(_norm2(a))[None, None]
    return jax.lax.scan(step, start, None, length=_STEPS)[0]


def orthonormal_rows(a: Matrices) -> Matrices:
    """Gram-Schmidt on the rows, from the first to the last: the unitary factor Q of a = L Q with L lower triangular and a
    positive diagonal. Each row is projected twice, after which it is orthogonal to rounding. nan for singular matrices."""

    def remove(row: Array, found: Matrices) -> Array:
        overlap = (jnp.conj(found) * row[None]).sum(1)
        return row - (overlap[:, None] * found).sum(0)

    def add(found: Matrices, numbered: tuple[Array, Array]) -> tuple[Matrices, None]:
        index, row = numbered
        row = remove(remove(row, found), found)
        row = row * jax.lax.rsqrt((row.real**2 + row.imag**2).sum(0))[None]
        return jax.lax.dynamic_update_index_in_dim(found, row, index, 0), None

    return jax.lax.scan(add, jnp.zeros_like(a), (jnp.arange(a.shape[0]), a))[0]


def _norm2(a: Matrices) -> Array:
    return (a.real**2 + a.imag**2).sum(1).sum(0)
