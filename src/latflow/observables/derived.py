"""Quantities that are functions of expectation values, with errors propagated through them.

Each function takes means (float64 scalars or vectors) and is written in `jax.numpy`, so that `statistics.gamma` can
differentiate it; where it does not exist at the measured means (an effective mass of noise) the estimate is undefined.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from latflow.lattice import Geometry
from latflow.statistics import derived_observable

Scalar = Float[Array, ""]
Correlator = Float[Array, " time"]


def creutz_ratio(w: Scalar, w_inner: Scalar, w_short: Scalar, w_narrow: Scalar) -> Scalar:
    """-log[W(R, T) W(R-1, T-1) / (W(R, T-1) W(R-1, T))]: the string tension where the area law holds."""
    return jnp.log(w_short * w_narrow / (w * w_inner))


def susceptibility(m: Scalar, m2: Scalar, volume: int) -> Scalar:
    """chi = V (<M^2> - <M>^2) = sum_x of the connected two-point function."""
    return volume * (m2 - m**2)


def binder_cumulant(m2: Scalar, m4: Scalar) -> Scalar:
    """U = 1 - <M^4> / (3 <M^2>^2): 0 for Gaussian M, 2/3 deep in the broken phase."""
    return 1 - m4 / (3 * m2**2)


def connected(two_point: Correlator, m: Scalar, spatial_volume: int) -> Correlator:
    """C(t) - V_space <M>^2."""
    return two_point - spatial_volume * m**2


def effective_mass(two_point: Correlator) -> Float[Array, " half"]:
    """arccosh[(C(t-1) + C(t+1)) / (2 C(t))] for t = 0 ... L0/2, exact for one periodic exponential; undefined at t = 0."""
    argument = (jnp.roll(two_point, 1) + jnp.roll(two_point, -1)) / (2 * two_point)
    return jnp.arccosh(argument)[: two_point.size // 2 + 1]


def pole_mass(two_point: Correlator) -> Scalar:
    """The mean effective mass over t = 1 ... L0 - 1, as defined in 1904.12072."""
    argument = (jnp.roll(two_point, 1) + jnp.roll(two_point, -1)) / (2 * two_point)
    return jnp.mean(jnp.arccosh(argument[1:]))


def correlation_length(two_point: Correlator) -> Scalar:
    """Second-moment length sqrt(chi / F - 1) / (2 sin(pi / L0)), chi and F the transforms of C at p_0 = 0 and 2 pi / L0."""
    L0 = two_point.size
    wave = jnp.cos(2 * math.pi * jnp.arange(L0) / L0)
    return jnp.sqrt(jnp.sum(two_point) / jnp.sum(wave * two_point) - 1) / (2 * math.sin(math.pi / L0))


def derived(quantities: Mapping[str, Any], geometry: Geometry) -> dict[str, Any]:
    """{name: Obs or array of Obs} of everything that follows from the measured `quantities`, by their names.

    `quantities` come from `statistics.observable`, of one ensemble: plain, replica or reweighted. Read the result with
    `statistics.summary`. Creutz ratios appear for the Wilson loops whose three smaller partners were measured too.
    """
    q = dict(quantities)
    result = _creutz_ratios(q)
    V, L0 = geometry.volume, geometry.shape[0]
    if {"magnetisation", "magnetisation2"} <= q.keys():
        result["susceptibility"] = derived_observable(
            lambda m, m2: susceptibility(m, m2, V), [q["magnetisation"], q["magnetisation2"]]
        )
    if {"polyakov_abs", "polyakov2"} <= q.keys():
        result["polyakov_susceptibility"] = derived_observable(
            lambda m, m2: susceptibility(m, m2, V // L0), [q["polyakov_abs"], q["polyakov2"]]
        )
    if {"magnetisation2", "magnetisation4"} <= q.keys():
        result["binder_cumulant"] = derived_observable(binder_cumulant, [q["magnetisation2"], q["magnetisation4"]])
    if {"magnetisation", "two_point"} <= q.keys():
        inputs = [q["two_point"], q["magnetisation"]]

        def of_connected(function):
            return derived_observable(lambda c, m: function(connected(c, m, V // L0)), inputs)

        result["two_point_connected"] = of_connected(lambda c: c)
        if L0 > 2:
            result["effective_mass"] = of_connected(effective_mass)
            result["pole_mass"] = of_connected(pole_mass)
            result["correlation_length"] = of_connected(correlation_length)
    return result


def _creutz_ratios(q: dict[str, Any]) -> dict[str, Any]:
    loops = {}
    for name in q:
        if match := re.fullmatch(r"wilson_loop_(\d+)x(\d+)", name):
            R, T = int(match[1]), int(match[2])
            # loops are averaged over both orientations, so W(R, T) = W(T, R)
            loops[R, T] = loops[T, R] = q[name]
    if "plaquette" in q:
        loops[1, 1] = q["plaquette"]
    result = {}
    for R, T in sorted({(min(pair), max(pair)) for pair in loops}):
        partners = [(R, T), (R - 1, T - 1), (R, T - 1), (R - 1, T)]
        if R > 1 and all(pair in loops for pair in partners):
            result[f"creutz_ratio_{R}x{T}"] = derived_observable(creutz_ratio, [loops[pair] for pair in partners])
    return result
