"""Bootstrap errors, for what is drawn rather than quoted: histograms and ratios of histograms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from latflow.statistics.weights import normalised_weights


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Probability per bin over `edges`, its bootstrap error, and the resampled probabilities `(resamples, bins)`."""

    edges: Float[np.ndarray, " edges"]
    probability: Float[np.ndarray, " bins"]
    error: Float[np.ndarray, " bins"]
    resamples: Float[np.ndarray, "resamples bins"]

    @property
    def density(self) -> Float[np.ndarray, " bins"]:
        return self.probability / np.diff(self.edges)

    @property
    def density_error(self) -> Float[np.ndarray, " bins"]:
        return self.error / np.diff(self.edges)


def histogram(
    series: ArrayLike,
    edges: ArrayLike,
    log_weight: ArrayLike | None = None,
    *,
    block: int = 1,
    resamples: int = 200,
    seed: int = 0,
) -> Histogram:
    """Histogram of a series `(n,)` or `(n, chains)`, weighted if `log_weight` of the same shape is given.

    Whole blocks of `block` successive measurements are resampled (take a few tau_int), so that autocorrelation enters the
    errors. Entries outside the edges count in the normalisation. Raises ValueError for NaN, infinities and bad edges.
    """
    data, bins = np.asarray(series, np.float64), np.asarray(edges, np.float64)
    if bins.ndim != 1 or bins.size < 2 or not np.all(np.diff(bins) > 0):
        raise ValueError("histogram edges must be at least two ascending numbers")
    if data.size == 0 or not np.all(np.isfinite(data)):
        raise ValueError("a histogram needs finite measurements, and at least one")
    weight = np.ones(data.shape) if log_weight is None else normalised_weights(np.ravel(np.asarray(log_weight)))
    data = data.reshape(data.shape[0], -1)
    label = _block_labels(*data.shape, block)
    weight = weight.reshape(data.shape)
    cell = np.searchsorted(bins, data, side="right") - 1
    cell[data == bins[-1]] = bins.size - 2
    inside = (cell >= 0) & (cell < bins.size - 1)
    blocks = int(label.max()) + 1
    counts = np.zeros((blocks, bins.size - 1))
    np.add.at(counts, (label[inside], cell[inside]), weight[inside])
    totals = np.bincount(label.ravel(), weight.ravel(), blocks)
    draws = np.random.default_rng(seed).multinomial(blocks, np.full(blocks, 1 / blocks), size=resamples)
    replicas = (draws @ counts) / np.maximum(draws @ totals, np.finfo(np.float64).tiny)[:, None]
    return Histogram(bins, counts.sum(0) / totals.sum(), replicas.std(0, ddof=1), replicas)


def ratio(
    numerator: Histogram, denominator: Histogram | ArrayLike
) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]:
    """(ratio, error) per bin of two independent histograms, or of one and exactly known probabilities.

    The ratio is NaN where the denominator is empty, its error also where the numerator is (no count, so no estimate of its
    fluctuation). Raises ValueError if the edges differ.
    """
    if isinstance(denominator, Histogram):
        if not np.array_equal(numerator.edges, denominator.edges):
            raise ValueError("a ratio of histograms needs the same edges")
        below, below_error = denominator.probability, denominator.error
    else:
        below = np.asarray(denominator, np.float64)
        below_error = np.zeros_like(below)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.where(below > 0, numerator.probability / below, np.nan)
        relative = np.hypot(numerator.error / numerator.probability, below_error / below)
    return value, np.where(numerator.probability > 0, value * relative, np.nan)


def bootstrap(
    function: Callable[..., Any], *series: ArrayLike, block: int = 1, resamples: int = 500, seed: int = 0
) -> tuple[Any, Any]:
    """(function(*series), bootstrap error) for a function of whole series `(n, ...)` that are resampled together."""
    arrays = [np.asarray(x) for x in series]
    n = arrays[0].shape[0]
    if any(x.shape[0] != n for x in arrays):
        raise ValueError(f"series of different lengths cannot be resampled together: {[x.shape[0] for x in arrays]}")
    if not 1 <= block <= n:
        raise ValueError(f"a block of {block} does not fit into {n} measurements")
    rng, starts = np.random.default_rng(seed), -(-n // block)
    draws = []
    for _ in range(resamples):
        # moving blocks around the circle, so that every measurement is equally likely
        index = (rng.integers(0, n, starts)[:, None] + np.arange(block)).ravel()[:n] % n
        draws.append(function(*(x[index] for x in arrays)))
    return function(*arrays), np.std(draws, axis=0, ddof=1)


def _block_labels(n: int, chains: int, block: int) -> np.ndarray:
    if not 1 <= block <= n:
        raise ValueError(f"a block of {block} does not fit into chains of {n} measurements")
    per_chain = max(n // block, 1)
    time = np.minimum(np.arange(n) // block, per_chain - 1)  # the rest of the chain joins its last block
    return time[:, None] + per_chain * np.arange(chains)[None, :]
