"""What is known exactly about a theory, by the names of the observables."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from latflow.exact.free_field import FreeField
from latflow.exact.sun_2d import TorusSUN
from latflow.exact.u1_2d import TorusU1
from latflow.groups import SUN, U1, AbstractGroup, RealLine
from latflow.lattice import Geometry

Value = float | Float[np.ndarray, "..."]


def exact_values(
    group: AbstractGroup,
    geometry: Geometry,
    names: Iterable[str] = (),
    *,
    beta: float | None = None,
    m2: float | None = None,
    lam: float = 0.0,
) -> dict[str, Value]:
    """{name: exact expectation value} of one theory, for all that is known in closed form; an unsolved theory gives little.

    Wilson loops `wilson_loop_RxT` and their Creutz ratios `creutz_ratio_RxT` are returned for those among `names` only. Gauge
    theories take `beta`, scalar theories `m2` and `lam`; scalar results are floats, correlators float64 arrays. `log_z` is
    with respect to Haar or Lebesgue measure. Never raises for a theory that is not solved.
    """
    if isinstance(group, RealLine):
        return _scalar(geometry, m2, lam)
    # the centre symmetry of a finite periodic lattice
    values: dict[str, Value] = {"polyakov": 0.0}
    if geometry.Nd != 2 or beta is None or beta < 0:
        return values
    if isinstance(group, SUN):
        theory = TorusSUN(geometry, group, float(beta))
    elif isinstance(group, U1):
        theory = TorusU1(geometry, float(beta))
        values |= {"q": 0.0, "q2": theory.q2(), "chi_top": theory.topological_susceptibility()}
    else:
        return values
    values |= {"plaquette": theory.plaquette(), "action_density": theory.action_density(), "log_z": theory.log_z()}
    return values | _loops(theory, names)


def _scalar(geometry: Geometry, m2: float | None, lam: float) -> dict[str, Value]:
    values: dict[str, Value] = {"magnetisation": 0.0}  # phi -> -phi
    if m2 is None or lam != 0 or not m2 > 0:
        return values
    free = FreeField(geometry, float(m2))
    two_point, V = np.asarray(free.two_point(), np.float64), geometry.volume
    magnetisation2 = float(free.susceptibility()) / V
    mass = 2 * math.asinh(math.sqrt(m2) / 2)
    return values | {
        "phi2": float(free.phi2()),
        "phi4": 3 * float(free.phi2()) ** 2,
        "two_point": two_point,
        "two_point_connected": two_point,
        "magnetisation2": magnetisation2,
        "magnetisation4": 3 * magnetisation2**2,
        "abs_magnetisation": float(np.sqrt(2 * magnetisation2 / np.pi)),
        "abs_phi": float(np.sqrt(2 * free.phi2() / np.pi)),
        "susceptibility": float(free.susceptibility()),
        "binder_cumulant": 0.0,
        "effective_mass": np.array([np.nan] + [mass] * (geometry.shape[0] // 2)),
        "pole_mass": mass,
        "correlation_length": 1 / math.sqrt(m2),
        "action_density": 0.5,
        "log_z": float(free.log_z()),
    }


def _loops(theory: TorusU1 | TorusSUN, names: Iterable[str]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    L0, L1 = theory.geometry.shape
    for name in names:
        if not (match := re.fullmatch(r"(wilson_loop|creutz_ratio)_(\d+)x(\d+)", name)):
            continue
        R, T = int(match[2]), int(match[3])
        if not (1 <= R <= min(L0, L1) and 1 <= T <= min(L0, L1)):
            continue
        if match[1] == "wilson_loop":
            values[name] = theory.wilson_loop(R * T)
        else:
            w = {(r, t): theory.wilson_loop(r * t) for r in (R, R - 1) for t in (T, T - 1)}
            if min(w.values()) > 0:
                values[name] = math.log(w[R, T - 1] * w[R - 1, T] / (w[R, T] * w[R - 1, T - 1]))
    return values
