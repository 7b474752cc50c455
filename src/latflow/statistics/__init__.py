"""Weights and effective sample sizes, the bridge to pyerrors, resampling."""

from latflow.statistics.draws import DrawsFit, DrawsPoint, best_number, ess_of_draws, fit_draws
from latflow.statistics.gamma import (
    UNDEFINED,
    Estimate,
    derived,
    derived_observable,
    estimate,
    observable,
    reweighted,
    summary,
)
from latflow.statistics.resampling import Histogram, bootstrap, histogram, ratio
from latflow.statistics.traced import autocorrelation, effective_sample_size_traced, integrated_time, log_mean_exp
from latflow.statistics.weights import effective_sample_size, ess_with_error, log_z, normalised_weights

__all__ = [
    "UNDEFINED",
    "DrawsFit",
    "DrawsPoint",
    "Estimate",
    "Histogram",
    "autocorrelation",
    "best_number",
    "bootstrap",
    "derived",
    "derived_observable",
    "effective_sample_size",
    "effective_sample_size_traced",
    "ess_of_draws",
    "ess_with_error",
    "estimate",
    "fit_draws",
    "histogram",
    "integrated_time",
    "log_mean_exp",
    "log_z",
    "normalised_weights",
    "observable",
    "ratio",
    "reweighted",
    "summary",
]
