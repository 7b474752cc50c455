"""What is measured on configurations, alone or in families, and what is derived from the means."""

from latflow.observables.base import Observable
from latflow.observables.derived import derived, formulas
from latflow.observables.families import AbstractFamily, GradientFlow, SmearedLoops
from latflow.observables.fermion import FermionObservables
from latflow.observables.registry import OBSERVABLES, applicable, find, measure

__all__ = [
    "FermionObservables",
    "OBSERVABLES",
    "AbstractFamily",
    "GradientFlow",
    "Observable",
    "SmearedLoops",
    "applicable",
    "derived",
    "find",
    "formulas",
    "measure",
]
