"""Priors and flow densities."""

from latflow.models.density import FlowModel
from latflow.models.prior import AbstractPrior

__all__ = ["AbstractPrior", "FlowModel"]
