"""Boundary conditions of fermions: a phase with which the last links of each direction are multiplied."""

from __future__ import annotations

import cmath
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex

from latflow.lattice import Geometry

# psi(x + L mu) = exp(i angle_mu) psi(x), one angle per direction; None: antiperiodic in time, periodic in space.
Boundary = tuple[float, ...] | None

ANTIPERIODIC = math.pi


def angles(boundary: Boundary, Nd: int) -> tuple[float, ...]:
    """One angle per direction. Raises ValueError for another number of them."""
    if boundary is None:
        return (ANTIPERIODIC, *[0.0] * (Nd - 1))
    if len(boundary) != Nd or not all(math.isfinite(a) for a in boundary):
        raise ValueError(f"a boundary condition is one angle per direction, {Nd} here, got {boundary}")
    return tuple(float(a) for a in boundary)


def phases(boundary: Boundary, geometry: Geometry, links: Complex[Array, "..."]) -> Complex[Array, "..."]:
    """The links `(..., Nd, *lattice)` times exp(i angle_mu) where they leave the lattice; signs are exact."""
    Nd = geometry.Nd
    factors = np.ones((Nd, *geometry.shape), complex)
    for mu, angle in enumerate(angles(boundary, Nd)):
        factor = {0.0: 1, ANTIPERIODIC: -1, -ANTIPERIODIC: -1}.get(angle, cmath.exp(1j * angle))
        factors[mu][geometry.coordinates()[mu] == geometry.shape[mu] - 1] *= factor
    if np.all(factors == 1):
        return links
    table = (
        jnp.asarray(np.real(factors), links.real.dtype) if np.all(np.imag(factors) == 0) else jnp.asarray(factors, links.dtype)
    )
    return links * table.reshape(*[1] * (links.ndim - table.ndim), *table.shape)
