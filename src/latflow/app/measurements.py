"""What is measured on every configuration of a run, and what derives from the means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from latflow import observables
from latflow.actions import AbstractAction
from latflow.app.config import Config


def names(config: Config, action: AbstractAction) -> tuple[str, ...]:
    """The observables of [measure], or all that apply to the theory, and the Wilson loops."""
    wanted, loops = config.measure.observables, config.measure.wilson_loops
    if wanted is None:
        return observables.applicable(action.group, action.geometry, loops)
    return tuple(dict.fromkeys([*wanted, *(f"wilson_loop_{R}x{T}" for R, T in loops or ())]))


def functions(config: Config, action: AbstractAction) -> dict[str, Callable[[Any], Any]]:
    """{name: function of one configuration}."""
    return observables.measure(names(config, action), action)
