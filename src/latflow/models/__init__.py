"""Priors and flow densities."""

from latflow.models.density import FlowModel
from latflow.models.joint import JointModel, JointTarget, Model, Weighed, log_estimate, spectrum_of, weigh
from latflow.models.noise import Draws, gaussian_draws, noise_key
from latflow.models.prior import AbstractPrior, ExactPrior, FreeFieldPrior, HaarPrior, NormalPrior, StoredPrior
from latflow.models.resampled import Filter, ResampledPrior, best_beta, learn_filter, measured
from latflow.models.sequential_heatbath import SequentialHeatbath

__all__ = [
    "AbstractPrior",
    "Draws",
    "ExactPrior",
    "Filter",
    "FlowModel",
    "FreeFieldPrior",
    "HaarPrior",
    "JointModel",
    "JointTarget",
    "Model",
    "NormalPrior",
    "ResampledPrior",
    "SequentialHeatbath",
    "StoredPrior",
    "Weighed",
    "best_beta",
    "gaussian_draws",
    "noise_key",
    "learn_filter",
    "log_estimate",
    "measured",
    "spectrum_of",
    "weigh",
]
