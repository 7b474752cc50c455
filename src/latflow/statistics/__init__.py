"""Weights and effective sample sizes, the bridge to pyerrors, resampling."""

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
    "Estimate",
    "Histogram",
    "autocorrelation",
    "bootstrap",
    "derived",
    "derived_observable",
    "effective_sample_size",
    "effective_sample_size_traced",
    "ess_with_error",
    "estimate",
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
