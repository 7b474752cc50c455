"""Eigenangles and eigenvectors of SU(N) matrices, colour axes first, differentiable away from coincidences and finite there.

With P = V exp(i theta) V^dagger, perturbation theory gives, in the gauge where the diagonal of V^dagger dV vanishes,

    d theta_i = Im[exp(-i theta_i) (V^dagger dP V)_ii],    (V^dagger dV)_ij = (V^dagger dP V)_ij / (exp(i theta_j) -
    exp(i theta_i)).

Where two angles are closer than `resolution` the difference is replaced by the resolution, so derivatives stay finite; those
of functions of P itself, in which the eigenvectors of equal eigenvalues drop out, keep their value.

SU(2) and SU(3) are done in closed form. For SU(3) the root of the characteristic polynomial that lies farthest from the
others gives one eigenvector, as a cross product of two rows of P - lambda; the rest is a problem of size two, whose solution
is a unit quaternion. All vectors are orthonormal to rounding whatever the eigenvalues. Larger groups go through `eigh` of the
Cayley transform i (1 - M) / (1 + M), whose eigenvalues tan(theta/2) tell all angles apart, unlike those of P + P^dagger.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from latflow.groups.exponential import matrix_product, trace_product
from latflow.groups.polar import adjugate_and_determinant

Matrices = Complex[Array, "Nc Nc ..."]
Angles = Float[Array, "Nc ..."]


def resolution(dtype) -> float:
    """Angles closer than this are treated as this far apart."""
    return 1e-8 if jnp.finfo(dtype).bits == 64 else 1e-5


def ordered(angles: Angles) -> Array:
    """Boolean (Nc, Nc, ...): whether angle i comes before angle j in descending order, equal ones in order of their index."""
    Nc = angles.shape[0]
    first = jnp.asarray(np.triu(np.ones((Nc, Nc), bool), 1)).reshape(Nc, Nc, *[1] * (angles.ndim - 1))
    a, b = angles[:, None], angles[None]
    return (a > b) | ((a == b) & first)


@jax.custom_jvp
def spectrum(p: Matrices) -> tuple[Angles, Matrices]:
    """(theta (Nc, ...) in [-pi, pi], V (Nc, Nc, ...)) with P = V diag(exp(i theta)) V^dagger, in no particular order."""
    if p.shape[0] == 2:
        return _quaternion(p)
    return _cubic(p) if p.shape[0] == 3 else _cayley(p)


@spectrum.defjvp
def _spectrum_jvp(primals, tangents):
    theta, v = spectrum(primals[0])
    rotated = matrix_product(_dagger(v), matrix_product(tangents[0], v))
    Nc, floor = theta.shape[0], resolution(theta.dtype)
    gap = theta[:, None] - theta[None]
    # half the distance on the circle decides; 2 pi apart is as close as 0
    size = jnp.clip(jnp.abs(gap), floor, 2 * np.pi - floor)
    half = jnp.where(ordered(theta), size, -size) / 2
    mean = (theta[:, None] + theta[None]) / 2
    # exp(i theta_j) - exp(i theta_i) = -2 i sin((theta_i - theta_j)/2) exp(i mean)
    inverse = jax.lax.complex(jnp.sin(mean), jnp.cos(mean)) / (2 * jnp.sin(half))
    off = jnp.asarray(1 - np.eye(Nc), theta.dtype).reshape(Nc, Nc, *[1] * (theta.ndim - 1))
    inverse = jnp.where(off > 0, inverse, 0)
    diagonal = (rotated * (1 - off)).sum(1)
    d_theta = jnp.imag(diagonal * jax.lax.complex(jnp.cos(theta), -jnp.sin(theta)))
    return (theta, v), (d_theta, matrix_product(v, rotated * inverse))


def recompose(v: Matrices, angles: Angles) -> Matrices:
    """V diag(exp(i angles)) V^dagger."""
    return matrix_product(v * jax.lax.complex(jnp.cos(angles), jnp.sin(angles))[None], _dagger(v))


def _dagger(a: Matrices) -> Matrices:
    return jnp.conj(jnp.swapaxes(a, 0, 1))


def _norm2(x: Array) -> Array:
    return x.real**2 + x.imag**2


def _quaternion(p: Matrices) -> tuple[Angles, Matrices]:
    """P = q0 + i n.sigma has angles +-atan2(|n|, q0) and the eigenvectors of n.sigma."""
    q0 = (p[0, 0].real + p[1, 1].real) / 2
    n3 = (p[0, 0].imag - p[1, 1].imag) / 2
    n12 = (p[1, 0] - jnp.conj(p[0, 1])) / 2  # i n1 - n2
    n12 = jax.lax.complex(n12.imag, -n12.real)  # n1 + i n2
    n = jnp.sqrt(n3**2 + _norm2(n12))
    # the eigenvector of +|n| is (|n| + n3, n1 + i n2) or (n1 - i n2, |n| - n3), whichever is longer
    up = n3 >= 0
    big = jnp.where(n > 0, n + jnp.abs(n3), 1)
    scale = jax.lax.rsqrt(big**2 + _norm2(n12))
    big, small = (big * scale).astype(p.dtype), n12 * scale
    first = jnp.stack([jnp.where(up, big, jnp.conj(small)), jnp.where(up, small, big)])
    second = jnp.stack([-jnp.conj(first[1]), jnp.conj(first[0])])
    omega = jnp.arctan2(n, q0)
    return jnp.stack([omega, -omega]), jnp.stack([first, second], axis=1)


def _cubic(p: Matrices) -> tuple[Angles, Matrices]:
    unit = jnp.eye(3, dtype=p.dtype).reshape(3, 3, *[1] * (p.ndim - 2))
    a = p - unit * ((p[0, 0] + p[1, 1] + p[2, 2]) / 3)[None, None]
    a = a - unit * _isolated_root(a)[None, None]
    candidates = [_cross(a[i], a[j]) for i, j in ((0, 1), (1, 2), (2, 0))]
    v1 = candidates[0]
    for c in candidates[1:]:
        v1 = jnp.where((_norm2(c).sum(0) > _norm2(v1).sum(0))[None], c, v1)
    length = jnp.sqrt(_norm2(v1).sum(0))
    found = length > 0
    v1 = jnp.where(found[None], v1 / jnp.where(found, length, 1)[None], jnp.broadcast_to(unit[0], v1.shape))
    # the axis that v1 points along least, made orthogonal to it
    weight = _norm2(v1)
    least = weight == weight.min(0, keepdims=True)
    least = jnp.stack([least[0], least[1] & ~least[0], ~(least[0] | least[1])]).astype(p.dtype)
    u2 = least - v1 * (jnp.conj(v1) * least).sum(0)[None]
    u2 = u2 * jax.lax.rsqrt(_norm2(u2).sum(0))[None]
    u3 = jnp.conj(_cross(v1, u2))
    basis = jnp.stack([u2, u3], axis=1)  # (3, 2, ...)
    images = (p[:, :, None] * basis[None]).sum(1)
    block = (jnp.conj(basis)[:, :, None] * images[:, None]).sum(0)
    phase = jnp.angle(block[0, 0] * block[1, 1] - block[0, 1] * block[1, 0]) / 2
    angles, w = _quaternion(block * jax.lax.complex(jnp.cos(phase), -jnp.sin(phase))[None, None])
    rest = (basis[:, :, None] * w[None]).sum(1)
    v = jnp.concatenate([v1[:, None], rest], axis=1)
    first = jnp.angle((jnp.conj(v1) * (p * v1[None]).sum(1)).sum(0))
    both = phase[None] + angles
    both = both - 2 * np.pi * jnp.round(both / (2 * np.pi))
    return jnp.concatenate([first[None], both]), v


def _cross(a: Array, b: Array) -> Array:
    return jnp.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def _isolated_root(a: Matrices) -> Complex[Array, "..."]:
    """The root of det(z - a) = z^3 + p z + q, for traceless a, with the largest derivative, by Cardano and one Newton step.

    p and q come from the entries of a, so that their errors are relative to the distance of the roots, however small it is."""
    p, q = -trace_product(a, a) / 2, -adjugate_and_determinant(a)[1]
    root = jnp.sqrt(q * q / 4 + p * p * p / 27)
    plus, minus = -q / 2 + root, -q / 2 - root
    cube = jnp.where(_norm2(plus) > _norm2(minus), plus, minus)
    radius, angle = jnp.cbrt(jnp.abs(cube)), jnp.angle(cube) / 3
    safe = jnp.where(radius > 0, radius, 1)
    best, most = jnp.zeros_like(p), -jnp.ones_like(radius)
    for k in range(3):
        turned = angle + 2 * np.pi * k / 3
        direction = jax.lax.complex(jnp.cos(turned), jnp.sin(turned))
        z = direction * radius - jnp.where(radius > 0, p * jnp.conj(direction) / (3 * safe), 0)
        slope = _norm2(3 * z * z + p)
        best, most = jnp.where(slope > most, z, best), jnp.maximum(slope, most)
    slope, value = 3 * best * best + p, (best * best + p) * best + q
    return best - jnp.where(most > 0, value / jnp.where(most > 0, slope, 1), 0)


def _cayley(p: Matrices) -> tuple[Angles, Matrices]:
    Nc = p.shape[0]
    unit = jnp.eye(Nc, dtype=p.dtype).reshape(Nc, Nc, *[1] * (p.ndim - 2))
    # of Nc + 1 rotations exp(i alpha) P at least one keeps every eigenvalue away from -1
    best, most, alpha = p, jnp.full(p.shape[2:], -1.0, p.real.dtype), jnp.zeros(p.shape[2:], p.real.dtype)
    for angle in 2 * np.pi * np.arange(Nc + 1) / (Nc + 1):
        m = p * jnp.asarray(np.exp(1j * angle), p.dtype)
        size = jnp.abs(adjugate_and_determinant(unit + m)[1])
        best, alpha = jnp.where((size > most)[None, None], m, best), jnp.where(size > most, angle, alpha)
        most = jnp.maximum(size, most)
    adjugate, determinant = adjugate_and_determinant(unit + best)
    h = 1j * matrix_product(unit - best, adjugate) / determinant[None, None]
    _, vectors = jnp.linalg.eigh(jnp.moveaxis((h + _dagger(h)) / 2, (0, 1), (-2, -1)))
    v = jnp.moveaxis(vectors, (-2, -1), (0, 1))
    theta = jnp.angle((jnp.conj(v) * matrix_product(p, v)).sum(0))
    return theta, v
