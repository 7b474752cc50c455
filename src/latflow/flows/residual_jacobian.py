"""The Jacobian of a residual step U' = exp(i G(U S)) U, as a symmetric matrix that is linear in products of coordinates.

With W = U S, X = G(W), A = ad(iX) (A y = i [X, y]) the derivative in the algebra is J = Ad(exp(iX)) (1 + Phi H) with

    Phi = (1 - exp(-A)) / A  (the differential of exp, Rossmann, Lie Groups, Sec. 1.2),    H y = G(i y W).

Write W = R + i K with Hermitian R and K. Then X = -(K - tr K / Nc) / 2, and H y = -(y W + W^dagger y) / 4 without its trace
part, which is -D/4 - A/2 with D y = {R, y} without trace. On the other hand A / (1 - exp(-A)) = (A/2) coth(A/2) + A/2, so the
antisymmetric parts cancel in

    M = Phi^-1 + H = (A/2) coth(A/2) - D/4,    J = Ad(exp(iX)) Phi M,    log det J = log det Phi + log det M.

M is symmetric, and positive where J is nowhere singular on the way from S = 0. No inverse of Phi is left to compute:
(1 + Phi H) y = c has the solution y = M^-1 Phi^-1 c = c - M^-1 H c.

Both functions of A are even and depend on differences of eigenvalues of X: A takes |j><k| to i (x_j - x_k) |j><k|. With
z = x_j - x_k (DLMF 4.22.3 and its integral, zeta(2m) from the sums over n^-2m)

    (z/2) cot(z/2) = 1 - 2 sum_m zeta(2m) (z / 2 pi)^(2m),    log(sin(z/2) / (z/2)) = -sum_m zeta(2m) / m (z / 2 pi)^(2m).

By the binomial theorem f(A) y = sum_il e_il X^i y X^l, and by Cayley-Hamilton X^i = sum_j r_ij X^j with j < Nc and r_i = x^i
modulo the characteristic polynomial, so that f(A) y = sum_jk c_jk X^j y X^k, c = r^T e r, and tr f(A) = sum_jk c_jk tr X^j tr
X^k. Nothing divides by differences of eigenvalues. With coordinates (p_j)_a = 2 tr T_a X^j and T_0 = 1 / sqrt(2 Nc)

    M_ab = delta_ab + sum_cd Q_cd 2 tr(T_a T_c T_b T_d),    Q = sum_jk c_jk p_j p_k^T - (R p_0^T + p_0 R^T) / 4,

in which the symmetric Q makes the trace real: one small matrix product of numbers with a constant.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Complex, Float

from latflow.groups import SUN
from latflow.groups.exponential import characteristic, powers
from latflow.groups.small_linear import log_det

Matrices = Complex[Array, "Nc Nc ..."]
_FULL = jax.lax.Precision.HIGHEST  # full precision also where the default for float32 products is less


def log_det_jacobian(group: SUN, w: Matrices, x: Matrices) -> Float[Array, "..."]:
    """log det J for x = G(w)."""
    M, log_det_phi = symmetric_jacobian(group, w, x)
    return log_det_phi + log_det(M)


def symmetric_jacobian(group: SUN, w: Matrices, x: Matrices) -> tuple[Float[Array, "n n ..."], Float[Array, "..."]]:
    """(M, log det Phi) for x = G(w), n = Nc^2 - 1. The series are good to rounding while eigenvalues of x differ by at most 2,
    as in a residual layer (twice its limit)."""
    Nc, n, dtype = group.Nc, group.dimension, x.real.dtype
    # the first omitted terms are 2 pi^-16 and 2 pi^-34 at the largest difference
    degree = 14 if jnp.finfo(dtype).bits == 32 else 32
    X = powers(x)
    r = _monomials(characteristic(X), degree)
    e = jnp.tensordot(jnp.asarray(_series(degree), dtype), r, ([2], [0]), precision=_FULL)  # (2, i, k, ...)
    c = (r[:, :, None] * e[0][:, None]).sum(0)

    unit = group.identity(x.shape[2:], x.dtype)
    p = _coordinates(Nc, jnp.stack([unit, *X], axis=2))  # (Nc^2, j, ...)
    R = _coordinates(Nc, (w + group.adjoint(w)) / 2)
    Q = ((p[:, :, None] * c[None]).sum(1)[:, None] * p[None]).sum(2)
    Q = Q - (R[:, None] * p[None, :, 0] + R[None] * p[:, None, 0]) / 4
    # apart from Q, because an identity that goes through its rounded coordinates would shift every log det
    one = jnp.asarray(np.eye(n), dtype).reshape(n, n, *[1] * (x.ndim - 2))
    M = one + jnp.tensordot(jnp.asarray(_quartic(Nc), dtype), Q, 2, precision=_FULL)

    trace = p[0] * math.sqrt(Nc / 2)  # tr X^j, from 2 tr T_0 X^j
    log_det_phi = ((r * trace[None]).sum(1) * (e[1] * trace[None]).sum(1)).sum(0)
    return M, log_det_phi


def _monomials(lower: tuple[Float[Array, "..."], ...], degree: int) -> Float[Array, "i Nc ..."]:
    """Coefficients of x^i modulo x^Nc + sum_{k < Nc-1} lower_k x^k, i = 0 .. degree."""
    zero = jnp.zeros_like(lower[0])

    def step(r: Array, _: None) -> tuple[Array, Array]:
        # a loop, because XLA would compute each power from the beginning
        shifted = jnp.concatenate([jnp.zeros_like(r[:1]), r[:-1]])
        return shifted - r[-1:] * jnp.stack([*lower, zero]), r

    one = jnp.stack([zero + 1, *[zero] * len(lower)])
    return jax.lax.scan(step, one, None, length=degree + 1)[1]


@functools.cache
def _series(degree: int) -> np.ndarray:
    """e (2, degree+1, degree+1): coefficients of x^i y^l in (z/2) cot(z/2) - 1 and in log(sin(z/2) / (z/2)), z = x - y."""
    e = np.zeros((2, degree + 1, degree + 1))
    for m in range(1, degree // 2 + 1):
        zeta = scipy.special.zeta(2 * m) / (2 * np.pi) ** (2 * m)
        for i in range(2 * m + 1):
            e[:, i, 2 * m - i] = (-1) ** i * math.comb(2 * m, i) * zeta * np.array([-2, -1 / m])
    return e


@functools.cache
def _basis(Nc: int) -> np.ndarray:
    """1 / sqrt(2 Nc) and the generators, (Nc^2, Nc, Nc): tr T_a T_b = delta_ab / 2."""
    return np.concatenate([np.eye(Nc)[None] / math.sqrt(2 * Nc), SUN(Nc).generators()])


@functools.cache
def _quartic(Nc: int) -> np.ndarray:
    """2 Re tr(T_a T_c T_b T_d), a and b without the identity."""
    t = _basis(Nc)
    pairs = np.einsum("aij,cjk->acik", t[1:], t)
    return 2 * np.einsum("acik,bdki->abcd", pairs, pairs).real


def _coordinates(Nc: int, x: Complex[Array, "Nc Nc ..."]) -> Float[Array, "Nc2 ..."]:
    """2 tr T_a x of Hermitian x, the identity included."""
    t = _basis(Nc)
    real, imaginary = (jnp.asarray(part, x.real.dtype) for part in (np.real(t), np.imag(t)))
    return 2 * (jnp.tensordot(real, x.real, 2, precision=_FULL) + jnp.tensordot(imaginary, x.imag, 2, precision=_FULL))
