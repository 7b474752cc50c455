"""What is measured on every configuration of a run, and what derives from the means."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from latflow import observables
from latflow.actions import AbstractAction
from latflow.app import builders
from latflow.app.config import Config


def names(config: Config, action: AbstractAction) -> tuple[str, ...]:
    """The observables of [measure], or all that apply to the theory, and the Wilson loops."""
    wanted, loops = config.measure.observables, config.measure.wilson_loops
    if wanted is None:
        return observables.applicable(action.group, action.geometry, loops)
    return tuple(dict.fromkeys([*wanted, *(f"wilson_loop_{R}x{T}" for R, T in loops or ())]))


def functions(config: Config, action: AbstractAction) -> dict[str, Callable[[Any], Any]]:
    """{name: function of one configuration}; functions of the gradient flow, of smeared links and of fermions return {name:
    value}."""
    boson = builders.build_boson(config)  # its density is `action_density`: the determinant is costly, and known by its weight
    group, geometry, chosen = action.group, action.geometry, names(config, action)
    matches = [re.fullmatch(r"wilson_loop_(\d+)x(\d+)", name) for name in chosen]
    loops = tuple((int(match[1]), int(match[2])) for match in matches if match)
    families = {
        "gradient_flow": config.measure.gradient_flow(),
        "smeared_loops": config.measure.smeared_loops(loops),
        "fermions": fermionic(config),
    }
    return observables.measure(chosen, boson) | {
        name: lambda field, family=family: family.evaluate(group, geometry, field)
        for name, family in families.items()
        if family is not None
    }


def fermionic(config: Config) -> observables.FermionObservables | None:
    """Pion, condensate and sign of the determinant of [fermions], None without fermions."""
    fermion = builders.build_fermion(config)
    if fermion is None:
        return None
    odd = bool(config.fermions.flavours % 2)  # type: ignore[union-attr]
    chosen = config.measure
    if chosen.pion == "none" and not (odd or chosen.det_sign):
        return None
    sources = None if chosen.pion == "none" else chosen.pion
    return observables.FermionObservables(fermion, sources, chosen.pion_sources, sign=odd or chosen.det_sign)
