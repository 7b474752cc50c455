"""Actions: Wilson gauge, phi^4, free scalar, and their sums and multiples."""

from latflow.actions.base import AbstractAction, Scaled, Sum, autodiff_value_and_force, field_shape
from latflow.actions.phi4 import FreeScalar, Phi4
from latflow.actions.wilson import WilsonGauge

__all__ = [
    "AbstractAction",
    "FreeScalar",
    "Phi4",
    "Scaled",
    "Sum",
    "WilsonGauge",
    "autodiff_value_and_force",
    "field_shape",
]
