"""Importance weights of independent proposals: effective sample size, partition function, reweighted means.

Everything takes log weights log w = -S - log q of independent draws, subtracts their maximum and works in float64.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike


def normalised_weights(log_weight: ArrayLike) -> Float[np.ndarray, " n"]:
    """w / mean(w) in float64. A log weight of -inf (a proposal outside the target's support) has weight 0.

    Raises ValueError for an empty or not one-dimensional array, for NaN or +inf, and if every weight vanishes.
    """
    weight, _ = _scaled(log_weight)
    return weight / weight.mean()


def effective_sample_size(log_weight: ArrayLike) -> float:
    """(sum w)^2 / (n sum w^2), in [1/n, 1] (2207.08945, Eq. 15). Raises ValueError as `normalised_weights`."""
    weight, _ = _scaled(log_weight)
    return float(weight.sum() ** 2 / (weight.size * np.sum(weight**2)))


def ess_with_error(log_weight: ArrayLike) -> tuple[float, float]:
    """(ESS, error) by the delete-one jackknife, which also removes the O(1/n) bias of the plain estimate upwards.

    The value is kept inside [1/n, 1]. Raises ValueError as `normalised_weights`.
    """
    weight, _ = _scaled(log_weight)
    n, plain = weight.size, effective_sample_size(log_weight)
    if n == 1:
        return 1.0, 0.0
    square = weight**2
    rest = np.maximum(square.sum() - square, np.finfo(np.float64).tiny)
    without = np.minimum((weight.sum() - weight) ** 2 / ((n - 1) * rest), 1.0)
    corrected = n * plain - (n - 1) * without.mean()
    error = np.sqrt((n - 1) * np.mean((without - without.mean()) ** 2))
    return float(np.clip(corrected, 1 / n, 1.0)), float(error)


def log_z(log_weight: ArrayLike) -> tuple[float, float]:
    """(log mean w, error): the estimate of log Z, mean w being unbiased for Z; the error is that of mean w / Z.

    Raises ValueError as `normalised_weights`.
    """
    weight, shift = _scaled(log_weight)
    mean = weight.mean()
    error = weight.std(ddof=1) / mean / np.sqrt(weight.size) if weight.size > 1 else 0.0
    return float(np.log(mean) + shift), float(error)


def _scaled(log_weight: ArrayLike) -> tuple[Float[np.ndarray, " n"], float]:
    log_w = np.asarray(log_weight, np.float64)
    if log_w.ndim != 1 or log_w.size == 0:
        raise ValueError(f"log weights must be a non-empty one-dimensional array, got shape {log_w.shape}")
    bad = np.isnan(log_w) | (log_w == np.inf)
    if bad.any():
        raise ValueError(f"{bad.sum()} of {log_w.size} log weights are NaN or +inf, the first at index {int(np.argmax(bad))}")
    shift = log_w.max()
    if shift == -np.inf:
        raise ValueError("every log weight is -inf: no proposal lies in the support of the target")
    return np.exp(log_w - shift), float(shift)
