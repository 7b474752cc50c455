"""Markov-chain kernels: hybrid Monte Carlo, with fermions or without, heatbath, overrelaxation, local Metropolis, sequences.

A kernel is `init(field) -> State` and `step(key, state) -> (State, Info)`, both pure and for one configuration; chains and
replicas come from `jax.vmap`.
"""

from latflow.kernels.base import AbstractKernel, Info, State
from latflow.kernels.composite import Composite, heatbath_sweep
from latflow.kernels.heatbath import HeatbathU1, OverrelaxationU1
from latflow.kernels.heatbath_sun import HeatbathSUN, OverrelaxationSUN, boltzmann_quaternion
from latflow.kernels.hmc import HMC
from latflow.kernels.integrators import INTEGRATORS, Integrator, integrate
from latflow.kernels.local import LocalMetropolis, conditional_action
from latflow.kernels.nested import TimeScale, integrate_nested
from latflow.kernels.pseudofermion_hmc import BOSONS, Level, PseudofermionHMC
from latflow.kernels.tuning import Tuning, tune_step_size
from latflow.kernels.von_mises import von_mises

KERNELS: dict[str, type[AbstractKernel]] = {
    "hmc": HMC,
    "heatbath": HeatbathU1,
    "overrelaxation": OverrelaxationU1,
    "heatbath-sun": HeatbathSUN,
    "overrelaxation-sun": OverrelaxationSUN,
    "local-metropolis": LocalMetropolis,
    "composite": Composite,
}

__all__ = [
    "BOSONS",
    "HMC",
    "INTEGRATORS",
    "KERNELS",
    "AbstractKernel",
    "Composite",
    "HeatbathSUN",
    "HeatbathU1",
    "Info",
    "Integrator",
    "Level",
    "LocalMetropolis",
    "OverrelaxationSUN",
    "OverrelaxationU1",
    "PseudofermionHMC",
    "State",
    "TimeScale",
    "Tuning",
    "boltzmann_quaternion",
    "conditional_action",
    "heatbath_sweep",
    "integrate",
    "integrate_nested",
    "tune_step_size",
    "von_mises",
]
