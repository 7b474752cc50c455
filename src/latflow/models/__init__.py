"""Priors and flow densities."""

from latflow.models.density import FlowModel
from latflow.models.prior import AbstractPrior, ExactPrior, FreeFieldPrior, HaarPrior, NormalPrior, StoredPrior
from latflow.models.resampled import Filter, ResampledPrior, best_beta, learn_filter, measured

__all__ = [
    "AbstractPrior",
    "ExactPrior",
    "Filter",
    "FlowModel",
    "FreeFieldPrior",
    "HaarPrior",
    "NormalPrior",
    "ResampledPrior",
    "StoredPrior",
    "best_beta",
    "learn_filter",
    "measured",
]
