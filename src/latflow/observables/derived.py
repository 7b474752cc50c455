"""Quantities that are functions of expectation values, with errors propagated through them.

Each function takes means (float64 scalars or vectors) and is written in `jax.numpy`, so that `statistics.gamma` can
differentiate it; where it does not exist at the measured means (an effective mass of noise, a flow scale that is not reached)
the estimate is undefined.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from latflow.lattice import Geometry
from latflow.observables.gradient_flow import flow_scale_t, flow_scale_w
from latflow.statistics import derived_observable

Scalar = Float[Array, ""]
Correlator = Float[Array, " time"]
# A function of means, and the names of the observables whose means it takes.
Formula = tuple[Callable[..., Any], tuple[str, ...]]


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


def derived(quantities: Mapping[str, Any], geometry: Geometry, flow_times: Sequence[float] = ()) -> dict[str, Any]:
    """{name: Obs or array of Obs} of everything that follows from the measured `quantities`, by their names.

    `quantities` come from `statistics.observable`, of one ensemble: plain, replica or reweighted. Read the result with
    `statistics.summary`. What there is, and `flow_times`: see `formulas`.
    """
    found = formulas(quantities.keys(), geometry, flow_times)
    return {name: derived_observable(f, [quantities[key] for key in keys]) for name, (f, keys) in found.items()}


def formulas(names: Collection[str], geometry: Geometry, flow_times: Sequence[float] = ()) -> dict[str, Formula]:
    """{name: (function of means, names of the observables it takes)} of all that follows from the observables `names`.

    Creutz ratios appear for the Wilson loops whose three smaller partners were measured too. `flow_times` are those of the
    vectors `flow_*` in lattice units; with them appear

    * `t_0`, `t_0p35` and `t_0_plaquette`: t^2 <E>(t) = 0.3, 0.35 of the clover, 0.3 of the plaquette (1006.4518);
    * `w_0` of the clover, in units of length (1203.4469);
    * `chi_top` = <Q^2> / V at the last flow time.

    Scales are found between the times, by straight lines.
    """
    V, L0 = geometry.volume, geometry.shape[0]
    found: dict[str, Formula] = _creutz_ratios(names)
    found["susceptibility"] = (lambda m, m2: susceptibility(m, m2, V), ("magnetisation", "magnetisation2"))
    found["polyakov_susceptibility"] = (lambda m, m2: susceptibility(m, m2, V // L0), ("polyakov_abs", "polyakov2"))
    found["binder_cumulant"] = (binder_cumulant, ("magnetisation2", "magnetisation4"))

    def of_connected(function: Callable[[Correlator], Any]) -> Formula:
        return (lambda c, m: function(connected(c, m, V // L0))), ("two_point", "magnetisation")

    found["two_point_connected"] = of_connected(lambda c: c)
    if L0 > 2:
        found["effective_mass"] = of_connected(effective_mass)
        found["pole_mass"] = of_connected(pole_mass)
        found["correlation_length"] = of_connected(correlation_length)
    found |= _flow_scales(flow_times, V)
    return {name: (function, keys) for name, (function, keys) in found.items() if all(key in names for key in keys)}


def _flow_scales(flow_times: Sequence[float], volume: int) -> dict[str, Formula]:
    if len(flow_times) == 0:
        return {}
    found: dict[str, Formula] = {"chi_top": (lambda q2: q2[-1] / volume, ("flow_charge2",))}
    times = np.asarray(flow_times, np.float64)

    def scale(function: Callable[..., Scalar], *level: float) -> Callable[[Any], Scalar]:
        return lambda t2e: function(jnp.asarray(times), t2e, *level)

    if len(times) > 1:
        found["t_0"] = (scale(flow_scale_t), ("flow_energy_clover",))
        found["t_0p35"] = (scale(flow_scale_t, 0.35), ("flow_energy_clover",))
        found["t_0_plaquette"] = (scale(flow_scale_t), ("flow_energy_plaquette",))
    if len(times) > 2:  # the slopes between them have to pass through the level
        found["w_0"] = (scale(flow_scale_w), ("flow_energy_clover",))
    return found


def _creutz_ratios(names: Collection[str]) -> dict[str, Formula]:
    # loops that are averaged over both orientations: W(R, T) = W(T, R)
    both = _loops(names, "wilson_loop")
    if "plaquette" in names:
        both[1, 1] = "plaquette"
    found = _ratios("creutz_ratio", both | {(T, R): name for (R, T), name in both.items()}, symmetric=True)
    smeared = _loops(names, "smeared_wilson_loop")
    found |= _ratios("smeared_creutz_ratio", smeared | {(T, R): name for (R, T), name in smeared.items()}, symmetric=True)
    return found | _ratios("smeared_creutz_ratio", _loops(names, "smeared_temporal_loop"), symmetric=False)


def _loops(names: Collection[str], stem: str) -> dict[tuple[int, int], str]:
    matches = [(name, re.fullmatch(rf"{stem}_(\d+)x(\d+)", name)) for name in names]
    return {(int(match[1]), int(match[2])): name for name, match in matches if match}


def _ratios(stem: str, loops: Mapping[tuple[int, int], str], symmetric: bool) -> dict[str, Formula]:
    found: dict[str, Formula] = {}
    for R, T in sorted({(min(pair), max(pair)) if symmetric else pair for pair in loops}):
        partners = [(R, T), (R - 1, T - 1), (R, T - 1), (R - 1, T)]
        if R > 1 and all(pair in loops for pair in partners):
            found[f"{stem}_{R}x{T}"] = (creutz_ratio, tuple(loops[pair] for pair in partners))
    return found
