"""Actions: Wilson gauge, phi^4, free scalar, pseudofermions, and their sums and multiples."""

from latflow.actions.base import AbstractAction, Scaled, Sum, autodiff_value_and_force, field_shape
from latflow.actions.determinant import Determinant, TooLarge
from latflow.actions.phi4 import FreeScalar, Phi4
from latflow.actions.pseudofermion import Monomial, OddSites, Pseudofermion, Solved, monomials
from latflow.actions.stochastic_determinant import StochasticDeterminant
from latflow.actions.wilson import WilsonGauge

__all__ = [
    "AbstractAction",
    "Determinant",
    "FreeScalar",
    "Monomial",
    "OddSites",
    "Phi4",
    "Pseudofermion",
    "Scaled",
    "Solved",
    "StochasticDeterminant",
    "Sum",
    "TooLarge",
    "WilsonGauge",
    "autodiff_value_and_force",
    "field_shape",
    "monomials",
]
