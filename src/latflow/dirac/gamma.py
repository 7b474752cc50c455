"""Euclidean gamma matrices in chiral form: gamma_mu = [[0, B_mu], [B_mu^dagger, 0]] with unitary B_mu, gamma5 = diag(1, -1).

In two dimensions B_0 = 1 and B_1 = -i, so that (gamma_0, gamma_1, gamma5) = (sigma_x, sigma_y, sigma_z). In four dimensions
B_0 = 1 and B_k = -i sigma_k, and gamma5 = gamma_1 gamma_2 gamma_3 gamma_0 = diag(1, 1, -1, -1).

Every row of B_mu has one entry, so that (1 -+ gamma_mu) psi, which has rank Ns/2, is computed from and with half spinors:
    (1 -+ gamma) (u, d) = (h, -+ B^dagger h),   h = u -+ B d.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex


@functools.cache
def blocks(Nd: int) -> np.ndarray:
    """B_mu, complex128 `(Nd, Ns/2, Ns/2)`. Raises ValueError for a dimension other than 2 and 4."""
    if Nd == 2:
        out = np.array([[[1]], [[-1j]]], complex)
    elif Nd == 4:
        sigma = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])
        out = np.concatenate([np.eye(2)[None], -1j * sigma])
    else:
        raise ValueError(f"Wilson fermions are implemented in two and four dimensions, got {Nd}")
    out.flags.writeable = False
    return out


def num_spins(Nd: int) -> int:
    """Ns: 2 in two dimensions, 4 in four."""
    return 2 * blocks(Nd).shape[1]


def matrices(Nd: int) -> np.ndarray:
    """gamma_mu, complex128 `(Nd, Ns, Ns)`."""
    B = blocks(Nd)
    zero = np.zeros_like(B)
    return np.block([[zero, B], [B.conj().swapaxes(1, 2), zero]])


def chirality(Nd: int) -> np.ndarray:
    """The diagonal of gamma5, float64 `(Ns,)`."""
    return np.repeat([1.0, -1.0], num_spins(Nd) // 2)


def apply_block(mu: int, Nd: int, half: Complex[Array, "half ..."], dagger: bool = False) -> Complex[Array, "half ..."]:
    """B_mu, or B_mu^dagger, times a field of half spinors."""
    B = blocks(Nd)[mu]
    B = B.conj().T if dagger else B
    rows = []
    for row in B:
        (k,) = np.flatnonzero(row)
        rows.append(_times_unit(complex(row[k]), half[k]))
    return jnp.stack(rows)


def _times_unit(unit: complex, x: Array) -> Array:
    """unit * x for a unit among 1, -1, i, -i, without a complex product."""
    if unit == 1:
        return x
    if unit == -1:
        return -x
    sign = 1.0 if unit == 1j else -1.0
    return jax.lax.complex(-sign * x.imag, sign * x.real)
