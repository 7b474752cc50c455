"""Priors and flow densities."""

from latflow.models.density import FlowModel
from latflow.models.prior import AbstractPrior, ExactPrior, FreeFieldPrior, HaarPrior, NormalPrior, StoredPrior

__all__ = ["AbstractPrior", "ExactPrior", "FlowModel", "FreeFieldPrior", "HaarPrior", "NormalPrior", "StoredPrior"]
