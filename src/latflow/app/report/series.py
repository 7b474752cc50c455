"""Time series for the eye: autocorrelation with the Gamma-method window, blocks and bins for histograms, thinning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Autocorrelation:
    """Normalised autocorrelation function of one observable and the window at which its sum is cut.

    `rho` and `error` at the times `lags` (thinned for drawing); `tau_int` = 1/2 + sum_{t=1}^{window} rho(t), in steps.
    """

    lags: Int[np.ndarray, " lags"]
    rho: Float[np.ndarray, " lags"]
    error: Float[np.ndarray, " lags"]
    window: int
    tau_int: float
    tau_int_error: float


def autocorrelation(series: Float[np.ndarray, "steps chains"], parameter: float = 2.0) -> Autocorrelation | None:
    """Autocorrelation of replicas of one length by the Gamma method (hep-lat/0306017, automatic window, Eq. 52).

    Replica share one mean. Returns None where nothing can be said: fewer than 8 steps, non-finite or constant series.
    The errors of rho are those of Madras and Sokal, summed within the window (hep-lat/0306017, Eq. E.11 truncated).
    """
    steps, chains = series.shape
    if steps < 8 or not np.all(np.isfinite(series)) or np.ptp(series) == 0.0:
        return None
    centred = series - series.mean()
    spectrum = np.fft.rfft(centred, n=2 * steps, axis=0)
    longest = max(steps // 2, 4)
    products = np.fft.irfft(np.abs(spectrum) ** 2, n=2 * steps, axis=0)[:longest].sum(axis=1)
    gamma = products / (chains * (steps - np.arange(longest)))
    if gamma[0] <= 0.0:
        return None
    rho = gamma / gamma[0]
    total = steps * chains
    sums = 0.5 + np.cumsum(np.concatenate([np.zeros(1), rho[1:]]))
    window = longest - 1
    for w in range(1, longest):
        # below 1/2 there is no exponential decay to extrapolate, and the sum stops at once
        decay = parameter / np.log((2 * sums[w] + 1) / (2 * sums[w] - 1)) if sums[w] > 0.5 else np.finfo(float).tiny
        if np.exp(-w / decay) < decay / np.sqrt(w * total):
            window = w
            break
    tau_int = float(sums[window] * (1 + (2 * window + 1) / total) / (1 + 1 / total))
    tau_error = float(tau_int * 2 * np.sqrt(max(window + 0.5 - tau_int, 0.25) / total))
    lags = thin(min(longest, max(3 * window, 25)), 160)
    return Autocorrelation(lags, rho[lags], _rho_error(rho, lags, window, total), window, tau_int, tau_error)


def _rho_error(
    rho: Float[np.ndarray, " longest"], lags: Int[np.ndarray, " lags"], window: int, total: int
) -> Float[np.ndarray, " lags"]:
    cut = np.concatenate([rho[: window + 1], np.zeros(2 * window + int(lags.max()) + 1)])
    variance = np.zeros(len(lags))
    for k in range(1, 2 * window + 1):
        variance += (cut[lags + k] + cut[np.abs(lags - k)] - 2 * cut[k] * cut[lags]) ** 2
    return np.sqrt(variance / total)


def block_length(steps: int, chains: int, tau_int: float) -> int:
    """Length of bootstrap blocks: twice the autocorrelation time on either side, at most a quarter of the chain.

    A few thousand blocks resolve the error to 3 %, so long series get longer blocks instead of more of them.
    """
    return min(max(round(4 * tau_int), -(-steps * chains // 4000), 1), max(steps // 4, 1))


def common_edges(samples: list[np.ndarray], bins: int = 36) -> Float[np.ndarray, " edges"]:
    """Bin edges shared by several samples: unit bins for integers, else the range that holds all but 0.2 % of each."""
    values = np.concatenate([sample.ravel() for sample in samples])
    low, high = float(values.min()), float(values.max())
    if np.all(np.abs(values - np.rint(values)) < 1e-3) and high - low < 200:
        return np.arange(np.rint(low), np.rint(high) + 2) - 0.5
    low = min(float(np.quantile(sample, 0.001)) for sample in samples)
    high = max(float(np.quantile(sample, 0.999)) for sample in samples)
    if high <= low:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, bins + 1)


def thin(length: int, limit: int) -> np.ndarray:
    """At most `limit` indices into a series of `length`: every k-th, with the first."""
    return np.arange(0, length, max(-(-length // limit), 1))


def stuck_stretches(accepted: np.ndarray) -> np.ndarray:
    """Lengths of the runs of rejections in a Metropolis history, in steps (empty if every proposal was accepted)."""
    flags = np.concatenate([[True], np.asarray(accepted, dtype=bool), [True]])
    gaps = np.diff(np.flatnonzero(flags)) - 1
    return gaps[gaps > 0]
