"""Draws of SU(2) and SU(3) matrices with density proportional to exp(Re Tr P M): one plaquette given its surroundings.

SU(2). Only the quaternion part k q of M matters, Re Tr P M = 2 k s_0 + const with s = P q, and s_0 is drawn by
`boltzmann_quaternion`.

SU(3), density exp(d Re Tr Q). Write Q = R(z) diag(V, 1) with z in S^5 the last column, z_3 = zeta, V in SU(2), and R(z) the
unitary matrix that turns e_3 into z in the plane of both. With w in S^3 the direction of (z_1, z_2), the trace is Re
zeta + Re Tr V (1 + (zeta* - 1) w w^dagger), whose quaternion part has length |1 + zeta| / 2. Integrating out V, Haar measure
leaves

    f(zeta) = (1 - |zeta|^2) exp(d Re zeta) I_1(x) / x,   x = d |1 + zeta|,

on the unit disk, and w uniform. In zeta = 1 - u - i v one has |1 + zeta| <= 2 - u/2 and x >= d (2 - u) >= (1 - u/2)(1 +
2 d) - 1, so
u ~ u^(3/2) exp(-3 d u / 2) (a gamma variable below 2) and v = sqrt(2 u - u^2) t with density 1 - t^2 of t are accepted
with probability

    [exp(-x) I_1(x) (1 + x)^(3/2) / x / B]  [(1 - u/2)(1 + 2 d) / (1 + x)]^(3/2)  exp(x - d (2 - u/2)),

B = max_x exp(-x) I_1(x) (1 + x)^(3/2) / x. No factor exceeds one, whatever d.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Bool, Complex, Float, PRNGKeyArray

from latflow.groups.exponential import matrix_product
from latflow.groups.spectral import spectrum

Quaternion = tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]
Matrices = Complex[Array, "Nc Nc ..."]


class _Draws(NamedTuple):
    key: PRNGKeyArray
    y: Float[Array, "..."]
    accepted: Bool[Array, "..."]


def boltzmann_quaternion(key: PRNGKeyArray, alpha: Float[Array, "..."]) -> Quaternion:
    """SU(2) elements with density proportional to exp(alpha s_0), one per entry of alpha >= 0; exact at any alpha.

    y = 1 - s_0 by rejection: for alpha > 1 from alpha y ~ Gamma(3/2) with acceptance sqrt(1 - y/2) (Kennedy-Pendleton), else
    from the uniform distribution on [0, 2] with acceptance sqrt(y (2 - y)) exp(-alpha y). In terms of y no digits cancel at
    large alpha. Entries with a non-finite alpha come back as NaN.
    """
    y_key, direction_key = jax.random.split(key)
    hopeless, large = ~jnp.isfinite(alpha), alpha > 1
    tiny = jnp.finfo(alpha.dtype).tiny

    def propose(draws: _Draws) -> _Draws:
        key, attempt = jax.random.split(draws.key)
        u = jax.random.uniform(attempt, (4, *alpha.shape), alpha.dtype, minval=tiny)
        gamma = -jnp.log(u[0]) - jnp.cos(2 * jnp.pi * u[1]) ** 2 * jnp.log(u[2])
        y = jnp.where(large, gamma / jnp.where(large, alpha, 1), 2 * u[0])
        uniform_acceptance = jnp.sqrt(jnp.maximum(y * (2 - y), 0)) * jnp.exp(-jnp.where(large, 0, alpha) * y)
        good = u[3] < jnp.where(large, jnp.sqrt(jnp.maximum(1 - y / 2, 0)), uniform_acceptance)
        return _Draws(key, jnp.where(draws.accepted, draws.y, y), draws.accepted | good)

    first = _Draws(y_key, jnp.full_like(alpha, jnp.nan), hopeless)
    y = jax.lax.while_loop(lambda draws: ~jnp.all(draws.accepted), propose, first).y
    length = jnp.sqrt(y * (2 - y))
    u = jax.random.uniform(direction_key, (2, *alpha.shape), alpha.dtype)
    z, azimuth = 2 * u[0] - 1, 2 * jnp.pi * u[1]
    flat = length * jnp.sqrt(1 - z * z)
    return 1 - y, flat * jnp.cos(azimuth), flat * jnp.sin(azimuth), length * z


_X = np.linspace(0, 40, 40001)[1:]
_BOUND = float(np.max(scipy.special.ive(1, _X) * (1 + _X) ** 1.5 / _X)) * (1 + 1e-6)


class _Column(NamedTuple):
    key: PRNGKeyArray
    zeta: Complex[Array, "..."]
    accepted: Bool[Array, "..."]


def boltzmann_su3(key: PRNGKeyArray, d: Float[Array, "..."]) -> Complex[Array, "3 3 ..."]:
    """SU(3) elements with density proportional to exp(d Re Tr Q), one per entry of d >= 0; exact at any d."""
    zeta_key, w_key, v_key = jax.random.split(key, 3)
    tiny = jnp.finfo(d.dtype).tiny
    # below d = 1/2 the gamma variable would mostly lie beyond 2: there u ~ u^(3/2) and exp(-3 d u / 2) is tested
    small = d < 0.5

    def propose(state: _Column) -> _Column:
        key, attempt, normal_key = jax.random.split(state.key, 3)
        r = jax.random.uniform(attempt, (6, *d.shape), d.dtype, minval=tiny)
        gauss = jax.random.normal(normal_key, d.shape, d.dtype)
        gamma = gauss * gauss / 2 - jnp.log(r[0]) - jnp.log(r[1])  # of shape 5/2
        u = jnp.where(small, 2 * r[0] ** 0.4, gamma / (1.5 * jnp.where(small, 1, d)))
        # 1 - t^2 is the density of the median of three uniform numbers on [-1, 1]
        t = (
            2 * (r[2] + r[3] + r[4] - jnp.maximum(jnp.maximum(r[2], r[3]), r[4]) - jnp.minimum(jnp.minimum(r[2], r[3]), r[4]))
            - 1
        )
        inside = u < 2
        u = jnp.minimum(u, 2)
        v = jnp.sqrt(u * (2 - u)) * t
        x = d * jnp.sqrt((2 - u) ** 2 + v * v)
        safe = jnp.maximum(x, 1e-6)
        bessel = jax.scipy.special.i1e(safe) / safe
        weight = bessel * (jnp.maximum(1 - u / 2, 0) * (1 + 2 * d)) ** 1.5 / _BOUND * jnp.exp(x - d * (2 - u / 2))
        good = inside & (r[5] < weight * jnp.where(small, jnp.exp(-1.5 * d * u), 1))
        return _Column(key, jnp.where(state.accepted, state.zeta, jax.lax.complex(1 - u, -v)), state.accepted | good)

    dtype = jnp.result_type(d.dtype, jnp.complex64)
    first = _Column(zeta_key, jnp.full(d.shape, jnp.nan, dtype), ~jnp.isfinite(d))
    zeta = jax.lax.while_loop(lambda state: ~jnp.all(state.accepted), propose, first).zeta
    gauss = jax.random.normal(w_key, (2, *d.shape), dtype)
    w = gauss * jax.lax.rsqrt((gauss.real**2 + gauss.imag**2).sum(0))[None]
    flat = jnp.sqrt(jnp.maximum(1 - zeta.real**2 - zeta.imag**2, 0))
    # R = 1 + (zeta* - 1) w w^dagger + zeta e e^dagger + flat (w e^dagger - e w^dagger)
    block = (
        jnp.eye(2, dtype=dtype).reshape(2, 2, *[1] * d.ndim) + (jnp.conj(zeta) - 1)[None, None] * w[:, None] * jnp.conj(w)[None]
    )
    k, q = quaternion_part(block)
    V = _multiply_matrix(boltzmann_quaternion(v_key, 2 * d * k), q)
    top = jnp.concatenate([matrix_product(block, V), (flat[None] * w)[:, None]], axis=1)
    bottom = jnp.concatenate([-(flat[None] * (jnp.conj(w)[:, None] * V).sum(0)), zeta[None]])
    return jnp.concatenate([top, bottom[None]])


def quaternion_part(m: Complex[Array, "2 2 ..."]) -> tuple[Float[Array, "..."], Complex[Array, "2 2 ..."]]:
    """(k, q) with k q, q in SU(2), the projection of m on real multiples of SU(2); q = 1 where k = 0."""
    a, b = (m[0, 0] + jnp.conj(m[1, 1])) / 2, (m[0, 1] - jnp.conj(m[1, 0])) / 2
    k = jnp.sqrt(a.real**2 + a.imag**2 + b.real**2 + b.imag**2)
    safe = jnp.where(k > 0, k, 1)
    a, b = jnp.where(k > 0, a / safe, 1), b / safe
    return k, jnp.stack([jnp.stack([a, b]), jnp.stack([-jnp.conj(b), jnp.conj(a)])])


def _multiply_matrix(s: Quaternion, q: Complex[Array, "2 2 ..."]) -> Complex[Array, "2 2 ..."]:
    """s q^dagger as a matrix."""
    a, b = jax.lax.complex(s[0], s[3]), jax.lax.complex(s[2], s[1])
    matrix = jnp.stack([jnp.stack([a, b]), jnp.stack([-jnp.conj(b), jnp.conj(a)])])
    return matrix_product(matrix, jnp.conj(jnp.swapaxes(q, 0, 1)))


class Surroundings(NamedTuple):
    """M = a + b C^dagger in the form in which `boltzmann_matrix` draws: `strength` and, for SU(2), the quaternion `frame`; for
    SU(3) the phases and the excess of the eigenvalues over the strength as well, and the eigenvectors as `frame`. All arrays
    end with the axes of C beyond its colours."""

    strength: Float[Array, "..."]
    frame: Matrices
    phases: Float[Array, "3 ..."] | None = None
    excess: Complex[Array, "3 ..."] | None = None


def surroundings(a: float, b: float, C: Matrices) -> Surroundings:
    """Of the density exp(Re Tr P (a + b C^dagger)) for matrices C in SU(2) or SU(3) and a, b >= 0."""
    if C.shape[0] == 2:
        unit = jnp.eye(2, dtype=C.dtype).reshape(2, 2, *[1] * (C.ndim - 2))
        return Surroundings(*quaternion_part(a * unit + b * jnp.conj(jnp.swapaxes(C, 0, 1))))
    angles, V = spectrum(C)
    m = a + b * jax.lax.complex(jnp.cos(angles), -jnp.sin(angles))
    d, phi = jnp.abs(m), -jnp.angle(m)
    total = phi.sum(0)
    smallest = d == d.min(0, keepdims=True)
    smallest = jnp.stack([smallest[0], smallest[1] & ~smallest[0], ~(smallest[0] | smallest[1])])
    left = jnp.where(smallest, total[None], 0)
    kept = d * jax.lax.complex(jnp.cos(left), -jnp.sin(left))
    common = jnp.maximum(kept.real.min(0), 0)
    return Surroundings(common, V, phi - left, kept - common[None])


def boltzmann_matrix(key: PRNGKeyArray, around: Surroundings) -> tuple[Matrices, Float[Array, "..."]]:
    """(P, log of the probability with which P may be kept) for the density of these `surroundings`.

    For SU(2) the probability is 1. For SU(3) P = V Q diag(exp(i phi)) V^dagger is drawn as if all eigenvalues d of |M| were
    equal to a common one; what is left of the weight, at most one, is returned. An SU(3) matrix |M|^-1 M need not exist
    where an eigenvalue of C is near -1, then the smallest d keeps a phase and pays for it in the probability.
    """
    if around.phases is None or around.excess is None:
        k, q = around.strength, around.frame
        return _multiply_matrix(boltzmann_quaternion(key, 2 * k), q), jnp.zeros_like(k)
    Q, V = boltzmann_su3(key, around.strength), around.frame
    diagonal = jnp.stack([Q[i, i] for i in range(3)])
    log_keep = ((around.excess * diagonal).real - jnp.abs(around.excess)).sum(0)
    turned = Q * jax.lax.complex(jnp.cos(around.phases), jnp.sin(around.phases))[None]
    return matrix_product(V, matrix_product(turned, jnp.conj(jnp.swapaxes(V, 0, 1)))), log_keep
