"""Priors and flow densities."""

from latflow.models.density import FlowModel
from latflow.models.prior import AbstractPrior, ExactPrior, FreeFieldPrior, HaarPrior, NormalPrior

__all__ = ["AbstractPrior", "ExactPrior", "FlowModel", "FreeFieldPrior", "HaarPrior", "NormalPrior"]
