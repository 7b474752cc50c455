"""Observables of gauge fields."""

from __future__ import annotations

import math
from itertools import permutations

import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Inexact

from latflow.groups import U1, AbstractGroup, RealLine, wrap
from latflow.lattice import Geometry
from latflow.loops import plaquette, polyakov_loop, wilson_loop
from latflow.observables.base import Observable

Links = Inexact[Array, "..."]


def mean_plaquette(group: AbstractGroup, geometry: Geometry, links: Links) -> Float[Array, ""]:
    """Re Tr P / Nc averaged over sites and planes."""
    planes = [jnp.mean(group.re_trace(plaquette(group, geometry, links, mu, nu))) for mu, nu in geometry.planes]
    return sum(planes[1:], planes[0]) / (len(planes) * group.Nc)


def mean_wilson_loop(group: AbstractGroup, geometry: Geometry, links: Links, R: int, T: int) -> Float[Array, ""]:
    """Re Tr W(R, T) / Nc averaged over sites, planes and, where R differs from T, both ways to lay it in a plane."""
    pairs = geometry.planes if R == T else tuple(permutations(range(geometry.Nd), 2))
    loops = [jnp.mean(group.re_trace(wilson_loop(group, geometry, links, R, T, mu, nu))) for mu, nu in pairs]
    return sum(loops[1:], loops[0]) / (len(loops) * group.Nc)


def mean_polyakov_loop(group: AbstractGroup, geometry: Geometry, links: Links) -> Complex[Array, ""]:
    """Spatial mean of (1/Nc) Tr prod_t U_0."""
    matrix = group.embed(polyakov_loop(group, geometry, links))
    trace = jnp.trace(matrix, axis1=0, axis2=1) if group.colour_shape else matrix
    return jnp.mean(trace) / group.Nc


def _squared(z: Complex[Array, ""]) -> Float[Array, ""]:
    return z.real**2 + z.imag**2


def topological_charge(group: AbstractGroup, geometry: Geometry, links: Links) -> Float[Array, ""]:
    """Q = (1/2 pi) sum_x arg P(x) of a U(1) field on a two-dimensional torus, exactly an integer at any precision.

    The sum differs from an integer by rounding alone, so it is rounded.
    """
    return jnp.round(jnp.sum(wrap(plaquette(group, geometry, links, 0, 1))) / (2 * math.pi))


def gauge(group: AbstractGroup, geometry: Geometry) -> bool:
    return not isinstance(group, RealLine) and geometry.Nd >= 2


def _abelian_2d(group: AbstractGroup, geometry: Geometry) -> bool:
    return isinstance(group, U1) and geometry.Nd == 2


def wilson_loop_observable(R: int, T: int) -> Observable:
    """`wilson_loop_RxT`. Raises ValueError if R or T is below 1."""
    if R < 1 or T < 1:
        raise ValueError(f"a Wilson loop needs sides of at least 1, got {R} x {T}")
    return Observable(
        f"wilson_loop_{R}x{T}",
        f"{R} x {T} Wilson loop, Re Tr W / Nc",
        lambda group, geometry: gauge(group, geometry) and max(R, T) <= min(geometry.shape),
        f"gauge fields on lattices of extent {max(R, T)} or more",
        lambda group, geometry, links: mean_wilson_loop(group, geometry, links, R, T),
    )


_GAUGE = "gauge fields in two or more dimensions"
_CHARGE = "U(1) gauge fields in two dimensions"

GAUGE_OBSERVABLES = (
    Observable("plaquette", "mean plaquette, Re Tr P / Nc", gauge, _GAUGE, mean_plaquette),
    Observable(
        "polyakov",
        "real part of the spatially averaged Polyakov loop",
        gauge,
        _GAUGE,
        lambda group, geometry, links: jnp.real(mean_polyakov_loop(group, geometry, links)),
    ),
    Observable(
        "polyakov_abs",
        "modulus of the spatially averaged Polyakov loop",
        gauge,
        _GAUGE,
        lambda group, geometry, links: jnp.abs(mean_polyakov_loop(group, geometry, links)),
    ),
    Observable(
        "polyakov2",
        "squared modulus of the spatially averaged Polyakov loop",
        gauge,
        _GAUGE,
        lambda group, geometry, links: _squared(mean_polyakov_loop(group, geometry, links)),
    ),
    Observable("q", "topological charge", _abelian_2d, _CHARGE, topological_charge),
    Observable(
        "q2",
        "topological charge squared",
        _abelian_2d,
        _CHARGE,
        lambda group, geometry, links: topological_charge(group, geometry, links) ** 2,
    ),
    Observable(
        "chi_top",
        "topological susceptibility, Q^2 / V",
        _abelian_2d,
        _CHARGE,
        lambda group, geometry, links: topological_charge(group, geometry, links) ** 2 / geometry.volume,
    ),
)
