"""[baseline]: kernels, not tuned yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from latflow.app.builders.theory import build_action, build_boson, build_fermion
from latflow.app.config import Config
from latflow.app.config import baseline as cb
from latflow.kernels import BOSONS, HMC, AbstractKernel, Level, PseudofermionHMC, heatbath_sweep


def _hmc(b: cb.HMCBaseline, config: Config) -> AbstractKernel:
    fermion = build_fermion(config)
    if fermion is None or b.fermions == "determinant":
        return HMC(build_action(config), b.tau, b.num_steps, b.integrator, jitter=b.jitter)
    monomials = tuple(range(len(b.hasenbusch) + 1))
    if b.gauge_steps:
        levels = [Level(monomials, b.num_steps, b.integrator), Level((BOSONS,), b.gauge_steps, b.integrator)]
    else:
        levels = [Level((*monomials, BOSONS), b.num_steps, b.integrator)]
    return PseudofermionHMC(
        build_boson(config),
        fermion,
        b.hasenbusch,
        b.tau,
        levels=levels,
        jitter=b.jitter,
        flavours=config.fermions.flavours,  # type: ignore[union-attr]
        max_iterations=b.max_iterations,
    )


BASELINES: dict[type, Callable[[Any, Config], AbstractKernel]] = {
    cb.HMCBaseline: _hmc,
    cb.HeatbathBaseline: lambda b, config: heatbath_sweep(build_action(config), b.overrelaxation),
}


def build_baseline(config: Config) -> AbstractKernel:
    """The kernel of [baseline], not tuned yet. Raises KeyError for "none", which has none."""
    return BASELINES[type(config.baseline)](config.baseline, config)
