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


@jax.custom_jvp
def polar(a: Matrices) -> Matrices:
    """V = a (a^dagger a)^(-1/2), the unitary matrix nearest to a, by Newton's iteration Y <- (z Y + (z Y)^(-dagger))/2 with
    the scaling z = (|Y^-1|_F / |Y|_F)^(1/2). nan for singular matrices.

    The derivative does not go back through the iteration. With a = V H the antihermitian K = V^dagger dV obeys

        H K + K H = C = V^dagger da - da^dagger V.

    Hence H^k K = K (-H)^k + sum_{i<k} H^(k-1-i) C (-H)^i, and as the characteristic polynomial p of H annihilates it,
    K = -(sum_k p_k sum_{i<k} H^(k-1-i) C (-H)^i) p(-H)^-1, where det p(-H) = prod_ij (-h_i - h_j) does not vanish."""

    def step(y: Matrices, _: None) -> tuple[Matrices, None]:
        adjugate, determinant = adjugate_and_determinant(y)
        inverse = jnp.conj(jnp.swapaxes(adjugate * (1 / determinant)[None, None], 0, 1))
        scale = jnp.sqrt(jnp.sqrt(_norm2(inverse) / _norm2(y)))
        return (scale / 2)[None, None] * y + (0.5 / scale)[None, None] * inverse, None

    # a common factor would overflow in the determinant long before it does in the entries
    start = a / jnp.sqrt(_norm2(a))[None, None]
    return jax.lax.scan(step, start, None, length=_STEPS)[0]


@polar.defjvp
def _polar_jvp(primals, tangents):
    (a,), (da,) = primals, tangents
    v, inverse_size = polar(a), (1 / jnp.sqrt(_norm2(a)))[None, None]
    vh = jnp.conj(jnp.swapaxes(v, 0, 1))
    h, rotated = matrix_product(vh, a * inverse_size), matrix_product(vh, da * inverse_size)
    h = (h + jnp.conj(jnp.swapaxes(h, 0, 1))) / 2
    c = rotated - jnp.conj(jnp.swapaxes(rotated, 0, 1))
    p = _characteristic(h)
    # s_k = sum_{i<k} H^(k-1-i) C (-H)^i obeys s_(k+1) = H s_k + C (-H)^k
    unit = jnp.eye(a.shape[0], dtype=a.dtype).reshape(*a.shape[:2], *[1] * (a.ndim - 2))
    power, s = jnp.broadcast_to(unit, h.shape), jnp.zeros_like(c)
    total, denominator = jnp.zeros_like(c), p[0][None, None] * unit
    for coefficient in p[1:]:
        s, power = matrix_product(h, s) + matrix_product(c, power), -matrix_product(power, h)
        total, denominator = total + coefficient[None, None] * s, denominator + coefficient[None, None] * power
    adjugate, determinant = adjugate_and_determinant(denominator)
    k = -matrix_product(total, adjugate * (1 / determinant)[None, None])
    return v, matrix_product(v, k)


def _characteristic(h: Matrices) -> list[Array]:
    """p_0 .. p_N = 1 of det(z - h), by the recursion of `adjugate_and_determinant`."""
    Nc = h.shape[0]
    unit = jnp.eye(Nc, dtype=h.dtype).reshape(Nc, Nc, *[1] * (h.ndim - 2))
    m, out = jnp.broadcast_to(unit, h.shape), [jnp.ones_like(h[0, 0])]
    for k in range(1, Nc + 1):
        out.append(-trace_product(h, m) / k)
        m = matrix_product(h, m) + out[-1][None, None] * unit
    return out[::-1]


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
