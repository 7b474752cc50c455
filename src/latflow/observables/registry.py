"""Observables by name, and their functions for a given theory."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable

from latflow.actions import AbstractAction
from latflow.groups import AbstractGroup
from latflow.lattice import Geometry
from latflow.observables.base import Field, Observable, Value
from latflow.observables.gauge import GAUGE_OBSERVABLES, wilson_loop_observable
from latflow.observables.scalar import SCALAR_OBSERVABLES

OBSERVABLES: dict[str, Observable] = {o.name: o for o in (*GAUGE_OBSERVABLES, *SCALAR_OBSERVABLES)}

_ACTION_DENSITY = "action_density"


def find(name: str) -> Observable:
    """The observable of that name; `wilson_loop_RxT` exists for any R and T. Raises ValueError for an unknown one."""
    if name in OBSERVABLES:
        return OBSERVABLES[name]
    if match := re.fullmatch(r"wilson_loop_(\d+)x(\d+)", name):
        return wilson_loop_observable(int(match[1]), int(match[2]))
    known = [*OBSERVABLES, _ACTION_DENSITY, "wilson_loop_RxT"]
    close = difflib.get_close_matches(name, known, 1)
    raise ValueError(f"there is no observable {name!r}; " + (f"did you mean {close[0]!r}?" if close else f"known: {known}"))


def applicable(
    group: AbstractGroup, geometry: Geometry, wilson_loops: Iterable[tuple[int, int]] | None = None
) -> tuple[str, ...]:
    """Names of everything that can be measured on such fields.

    Wilson loops are those of the given R x T that fit, by default R <= T <= 3 up to half the smallest extent.
    """
    half = min(3, min(geometry.shape) // 2)
    if wilson_loops is None:
        wilson_loops = [(R, T) for T in range(1, half + 1) for R in range(1, T + 1)]
    loops = [wilson_loop_observable(R, T) for R, T in wilson_loops]
    found = [o.name for o in (*OBSERVABLES.values(), *loops) if o.applies(group, geometry)]
    return (_ACTION_DENSITY, *dict.fromkeys(found))


def measure(names: Iterable[str], action: AbstractAction) -> dict[str, Callable[[Field], Value]]:
    """{name: function of one configuration}, ready for jit and vmap; `action_density` is S / V of this action.

    Raises ValueError for a name that is unknown or does not apply to the fields of `action`.
    """
    return {name: _function(name, action) for name in names}


def _function(name: str, action: AbstractAction) -> Callable[[Field], Value]:
    group, geometry = action.group, action.geometry
    if name == _ACTION_DENSITY:
        return lambda field: action(field) / geometry.volume
    observable = find(name)
    if not observable.applies(group, geometry):
        raise ValueError(
            f"{name} exists for {observable.condition}, not for {type(group).__name__} on the lattice {geometry.shape}"
        )
    return lambda field: observable.evaluate(group, geometry, field)
