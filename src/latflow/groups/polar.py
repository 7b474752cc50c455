"""Unitary polar factor, adjugate and determinant of small matrices by matrix products only, colour axes first."""

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
        inverse = jnp.conj(jnp.swapaxes(adjugate / determinant[None, None], 0, 1))
        scale = jnp.sqrt(jnp.sqrt(_norm2(inverse) / _norm2(y)))[None, None]
        return (scale * y + inverse / scale) / 2, None

    # a common factor would overflow in the determinant long before it does in the entries
    start = a / jnp.sqrt(_norm2(a))[None, None]
    return jax.lax.scan(step, start, None, length=_STEPS)[0]


def _norm2(a: Matrices) -> Array:
    return (a.real**2 + a.imag**2).sum(1).sum(0)
