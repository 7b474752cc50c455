"""Von Mises draws at one fixed concentration by inversion: no rejection, so nothing waits for the slowest site of a batch."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float, PRNGKeyArray

from latflow.precision import working_dtype

_INTERVALS, _DEGREE = 256, 7
_W_MAX = math.sqrt(54 * math.log(2))  # the smallest tail probability drawn is 2^-54


def fixed_von_mises(key: PRNGKeyArray, beta: float, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Angles in [-pi, pi] with density exp(beta cos P) / (2 pi I_0(beta)), independent, in `working_dtype()`.

    |P| is the inverse of its survival probability v at a uniform v. As a function of w = sqrt(-log v) in [0, 6.12] it is smooth
    for every beta (erfc-like at large beta, pi (1 - e^{-w^2}) at beta = 0), so a table of polynomials gives it to 1e-12.
    """
    dtype = working_dtype()
    if dtype == np.float64:
        bits = jax.random.bits(key, shape, jnp.uint64)
        tail, unit = bits >> 11, 2.0**-53
    else:
        bits = jax.random.bits(key, shape, jnp.uint32)
        tail, unit = bits >> 8, 2.0**-24
    v = (tail.astype(dtype) + jnp.asarray(0.5, dtype)) * jnp.asarray(unit, dtype)
    w = jnp.sqrt(-jnp.log(v)) * jnp.asarray(_INTERVALS / _W_MAX, dtype)
    cell = jnp.minimum(w.astype(jnp.int32), _INTERVALS - 1)
    x = 2 * (w - cell.astype(dtype)) - 1
    table = jnp.asarray(_quantile_table(beta), dtype)
    angle = table[_DEGREE][cell]
    for power in range(_DEGREE - 1, -1, -1):
        angle = angle * x + table[power][cell]
    return jnp.where(bits & 1 == 1, -angle, angle)


@functools.lru_cache(maxsize=32)
def _quantile_table(beta: float) -> np.ndarray:
    """Coefficients (degree + 1, intervals) of |P|(w) in the local coordinate x in [-1, 1] of each interval of w."""
    x = np.cos(np.pi * (np.arange(_DEGREE + 1) + 0.5) / (_DEGREE + 1))
    w = (np.arange(_INTERVALS)[:, None] + (x + 1) / 2) * (_W_MAX / _INTERVALS)
    values = _survival_inverse(beta, w.ravel()).reshape(w.shape)
    return np.ascontiguousarray(np.linalg.solve(np.polynomial.polynomial.polyvander(x, _DEGREE), values.T))


def _survival_inverse(beta: float, w: np.ndarray) -> np.ndarray:
    """Solve log Pr(|P| > T) = -w^2 for T, by Newton's method in T kept inside a bracket."""
    log_norm = math.log(math.pi * scipy.special.ive(0, beta))
    low, high = np.zeros_like(w), np.full_like(w, math.pi)
    T = math.pi * -np.expm1(-(w**2)) / math.sqrt(1 + beta)
    for _ in range(100):
        # d log Pr / dT = -1 / scaled, where scaled = int_T^pi exp(beta (cos P - cos T)) dP
        scaled = _scaled_survival(beta, T)
        residual = np.log(scaled) - 2 * beta * np.sin(T / 2) ** 2 - log_norm + w**2
        low, high = np.where(residual > 0, T, low), np.where(residual > 0, high, T)
        step = T + residual * scaled
        new = np.where((step > low) & (step < high), step, (low + high) / 2)
        change, T = np.max(np.abs(new - T)), new
        if change < 1e-13:
            break
    return T


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(80)


def _scaled_survival(beta: float, T: np.ndarray) -> np.ndarray:
    """int_T^pi exp(beta (cos P - cos T)) dP, cut off where the integrand has fallen by exp(-45)."""
    end = np.arccos(np.clip(np.cos(T) - 45 / max(beta, 0.1), -1, 1))
    half = (end - T) / 2
    P = T[:, None] + half[:, None] * (_NODES + 1)
    exponent = -2 * beta * np.sin((P + T[:, None]) / 2) * np.sin((P - T[:, None]) / 2)
    return np.maximum(half * (np.exp(exponent) @ _WEIGHTS), np.finfo(float).tiny)
