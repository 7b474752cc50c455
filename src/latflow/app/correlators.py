"""Masses from correlators, by the correlator class of pyerrors."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np


def pion_mass(correlator: Any) -> dict[str, Any]:
    """{"pion_effective_mass": array of Obs or None, "pion_mass": Obs or None} of the array (L0,) of Obs of a periodic
    correlator that is symmetric about L0/2.

    The effective mass solves C(t)/C(t+1) = cosh(m (t - L0/2)) / cosh(m (t + 1 - L0/2)) for t = 0 ... L0/2 - 1. The mass is the
    weighted mean over the plateau t >= L0/4, up to the last point whose error is below a tenth of its value (the second last
    at least). None where the correlator does not give it.
    """
    import pyerrors as pe

    L0 = len(correlator)
    if L0 < 4 or L0 % 2:
        return {}
    folded = [correlator[t] if t in (0, L0 // 2) else (correlator[t] + correlator[L0 - t]) / 2 for t in range(L0 // 2 + 1)]
    symmetric = pe.Corr([folded[min(t, L0 - t)] for t in range(L0)])
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The iteration is not making good progress", category=RuntimeWarning)
            effective = symmetric.m_eff("cosh")
    except ValueError:
        return {}
    points = [None if value is None else value[0] for value in effective.content[: L0 // 2]]
    points = [None if m is None or not _solves(m.value, folded, t) else m for t, m in enumerate(points)]
    plateau = []
    for t in range(max(1, L0 // 4), L0 // 2):
        point = points[t]
        if point is None:
            break
        point.gamma_method()
        if plateau and not point.dvalue < 0.1 * abs(point.value):
            break
        plateau.append(point)
    found: dict[str, Any] = {"pion_effective_mass": np.array(points, dtype=object)}
    if plateau:
        start = max(1, L0 // 4)
        found["pion_mass"] = effective.plateau([start, start + len(plateau) - 1], method="avg")
    return found


def _solves(m: float, folded: list[Any], t: int) -> bool:
    """Whether m is an effective mass at t: the root finder may end elsewhere, where the ratio is below one."""
    half, ratio = len(folded) - 1, folded[t].value / folded[t + 1].value
    expected = math.cosh(m * (t - half)) / math.cosh(m * (t + 1 - half)) if abs(m) * half < 700 else math.inf
    return math.isclose(ratio, expected, rel_tol=1e-6)
