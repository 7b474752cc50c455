"""Sums of terms given by their logarithms."""

from __future__ import annotations

import numpy as np
import scipy.special


def log_sum(log_terms: np.ndarray | float) -> float:
    """log sum exp(log_terms), without overflow."""
    return float(np.asarray(scipy.special.logsumexp(log_terms)))
