"""Observables of scalar fields."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from latflow.groups import AbstractGroup, RealLine
from latflow.lattice import Geometry
from latflow.observables.base import Observable

Scalar = Float[Array, "*lattice"]


def two_point(group: AbstractGroup, geometry: Geometry, phi: Scalar) -> Float[Array, " time"]:
    """C(t) = (1 / L0) sum_{t0} sum_x phi(t0 + t, x) phibar(t0), phibar the spatial mean: the estimator of
    sum_x <phi(t, x) phi(0, 0)> at zero spatial momentum that uses every pair of time slices, for t = 0 ... L0 - 1.

    sum_t C(t) = V M^2 on every configuration.
    """
    L0 = geometry.shape[0]
    slices = jnp.mean(phi.reshape(L0, -1), axis=1)
    later = (np.arange(L0)[:, None] + np.arange(L0)[None, :]) % L0
    return (slices[later] @ slices) * (geometry.volume // L0 / L0)


def _scalar(group: AbstractGroup, geometry: Geometry) -> bool:
    return isinstance(group, RealLine)


def _moment(name: str, description: str, power: int, absolute: bool = False) -> Observable:
    def evaluate(group: AbstractGroup, geometry: Geometry, phi: Scalar) -> Float[Array, ""]:
        mean = jnp.mean(phi)
        return (jnp.abs(mean) if absolute else mean) ** power

    return Observable(name, description, _scalar, _SCALAR, evaluate)


def _local(name: str, description: str, function) -> Observable:
    return Observable(name, description, _scalar, _SCALAR, lambda group, geometry, phi: jnp.mean(function(phi)))


_SCALAR = "scalar fields"

SCALAR_OBSERVABLES = (
    _moment("magnetisation", "M, the lattice average of phi", 1),
    _moment("abs_magnetisation", "|M|", 1, absolute=True),
    _moment("magnetisation2", "M^2", 2),
    _moment("magnetisation4", "M^4", 4),
    _local("abs_phi", "lattice average of |phi|", jnp.abs),
    _local("phi2", "lattice average of phi^2", jnp.square),
    _local("phi4", "lattice average of phi^4", lambda phi: jnp.square(jnp.square(phi))),
    Observable("two_point", "two-point function at zero spatial momentum, by separation in time", _scalar, _SCALAR, two_point),
)
