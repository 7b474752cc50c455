"""Priors and flow densities."""

from latflow.models.density import FlowModel
from latflow.models.prior import AbstractPrior, ExactPrior, HaarPrior, NormalPrior

__all__ = ["AbstractPrior", "ExactPrior", "FlowModel", "HaarPrior", "NormalPrior"]
