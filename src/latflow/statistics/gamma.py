"""The bridge to pyerrors: every error of a measured quantity comes from the Gamma method (U. Wolff, hep-lat/0306017).

A series is one Markov chain `(n,)`, several replica `(n, chains)`, or replica of a vector `(n, chains, *components)`; axis 0 is
Markov time. Importance-sampled series carry the log weights of their configurations; every mean is then a ratio whose
numerator and denominator are propagated together. pyerrors is imported on first use only.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from latflow.statistics.weights import normalised_weights

Obs = Any  # a pyerrors.Obs, or an object array of them


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean, its error, the integrated autocorrelation time (1/2 for white noise) and its error, and n / (2 tau_int)."""

    value: float
    error: float
    tau_int: float
    tau_int_error: float
    ess: float


UNDEFINED = Estimate(float("nan"), float("nan"), float("nan"), float("nan"), float("nan"))


def observable(series: ArrayLike, log_weight: ArrayLike | None = None, ensemble: str = "ensemble") -> Obs:
    """The mean as a pyerrors Obs, or an object array `(*components)` of them for a vector series.

    Fluctuations are taken around the mean over all replica, as in Wolff's Eq. (31), so that chains stuck in different
    places show up in the error. Observables of one ensemble name are correlated, those of two names are independent.
    `log_weight` has the shape of the first one or two axes. Raises ValueError for NaN or infinite entries, fewer than 5
    entries per replica, or mismatched shapes; ImportError without pyerrors.
    """
    data = _replica(series)
    if log_weight is None:
        return _each(data, lambda x: _plain(x, ensemble))
    weight = normalised_weights(np.ravel(np.asarray(log_weight, np.float64)))
    if weight.size != data.shape[0] * data.shape[1]:
        raise ValueError(f"{weight.size} log weights do not belong to a series of shape {np.shape(series)}")
    weight = weight.reshape(data.shape[:2])
    denominator = _plain(weight, ensemble)
    return _each(data, lambda x: _ratio(_plain(weight * x, ensemble), denominator))


def derived_observable(function: Callable[..., Any], observables: Sequence[Obs]) -> Obs:
    """function(mean_1, mean_2, ...) as an Obs or an array of them, errors propagated through its derivatives by JAX.

    `function` takes one float64 scalar or array per observable and returns a scalar or an array, built with `jax.numpy`.
    Where it is not finite at the means (a logarithm of noise), the result is None instead of an Obs.
    """
    import pyerrors as pe

    arrays = [np.asarray(o, dtype=object) for o in observables]
    flat = [obs for array in arrays for obs in array.ravel()]
    splits = np.cumsum([array.size for array in arrays])[:-1]

    def unpacked(x: Any) -> Any:
        parts = jnp.split(jnp.asarray(x), splits)
        return jnp.asarray(function(*(part.reshape(array.shape) for part, array in zip(parts, arrays, strict=True))))

    with _double_precision():
        means = np.array([obs.value for obs in flat])
        value = np.asarray(unpacked(means), np.float64)
        # forward mode: in reverse mode one undefined entry would spoil the derivatives of all
        gradient = np.asarray(jax.jacfwd(unpacked)(jnp.asarray(means)), np.float64)
    result = np.empty(value.shape, dtype=object)
    for index in np.ndindex(value.shape):
        if np.isfinite(value[index]) and np.all(np.isfinite(gradient[index])):
            # pyerrors evaluates the function at replica means too, where only the linear part is wanted
            slope = gradient[index]
            used = np.flatnonzero(slope) if slope.any() else np.zeros(1, int)
            result[index] = pe.derived_observable(
                lambda x, v=value[index], g=slope[used], m=means[used], **_: np.float64(v + g @ (x - m)),
                [flat[i] for i in used],
                man_grad=slope[used],
            )
    return result[()]


def summary(obs: Obs, S: float = 2.0) -> Any:
    """`Estimate` of an Obs, nested lists of them for an array. `S` is the window parameter of Wolff's Eq. (51); 0 declares
    the draws independent. A quantity without fluctuations has error 0 and tau_int 1/2; None becomes `UNDEFINED`."""
    if isinstance(obs, np.ndarray):
        return [summary(o, S) for o in obs]
    if obs is None:
        return UNDEFINED
    obs.gamma_method(S=S)
    n = float(obs.N)
    if obs.dvalue <= 1e-14 * abs(obs.value) or not obs.e_tauint:
        return Estimate(float(obs.value), 0.0, 0.5, 0.0, n)
    # the Gamma method is applied per ensemble; quote the slowest
    slowest = max(obs.e_tauint, key=obs.e_tauint.get)
    tau = float(obs.e_tauint[slowest])
    return Estimate(float(obs.value), float(obs.dvalue), tau, float(obs.e_dtauint[slowest]), n / (2 * tau))


def estimate(series: ArrayLike, ensemble: str = "ensemble", S: float = 2.0) -> Any:
    """`Estimate` of the mean of a series, lists of them for a vector series. Raises as `observable`."""
    return summary(observable(series, ensemble=ensemble), S)


def reweighted(series: ArrayLike, log_weight: ArrayLike, ensemble: str = "ensemble", S: float = 2.0) -> Any:
    """`Estimate` of <w O> / <w>, lists of them for a vector series. Raises as `observable`."""
    return summary(observable(series, log_weight, ensemble), S)


def derived(
    function: Callable[..., Any], series: Sequence[ArrayLike], log_weight: ArrayLike | None = None, S: float = 2.0
) -> Any:
    """`Estimate` of function(means of the series), which are measured on the same configurations. Raises as `observable`."""
    return summary(derived_observable(function, [observable(x, log_weight) for x in series]), S)


def _replica(series: ArrayLike) -> np.ndarray:
    data = np.asarray(series)
    if data.ndim == 0 or np.iscomplexobj(data):
        raise ValueError("a series must be a real array with Markov time as its first axis")
    data = data.astype(np.float64)
    data = data[:, None] if data.ndim == 1 else data
    if data.shape[0] < 5 or data.size == 0:
        raise ValueError(f"the Gamma method needs at least 5 measurements per chain, got a series of shape {np.shape(series)}")
    bad = ~np.isfinite(data)
    if bad.any():
        first = tuple(np.argwhere(bad)[0].tolist())
        raise ValueError(f"{bad.sum()} of {data.size} measurements are NaN or infinite, the first at {first}")
    return data


def _each(data: np.ndarray, build: Callable[[np.ndarray], Obs]) -> Obs:
    components = data.shape[2:]
    result = np.empty(components, dtype=object)
    for index in np.ndindex(components):
        result[index] = build(data[(slice(None), slice(None), *index)])
    return result[()]


def _plain(data: np.ndarray, ensemble: str) -> Obs:
    import pyerrors as pe

    mean = data.mean()
    delta = np.zeros_like(data) if np.ptp(data) == 0 else data - mean
    chains = data.shape[1]
    names = [ensemble] if chains == 1 else [f"{ensemble}|r{i:04d}" for i in range(chains)]
    idl = [range(1, data.shape[0] + 1)] * chains
    # pyerrors would take fluctuations around the mean of each replica; around the common mean is what Eq. (31) wants
    return pe.Obs([np.ascontiguousarray(d) for d in delta.T], names, idl=idl, means=[0.0] * chains) + float(mean)


def _ratio(numerator: Obs, denominator: Obs) -> Obs:
    result = numerator / denominator
    result.reweighted = True
    return result


def _double_precision() -> Any:
    """Derivatives in float64 whatever the process has chosen."""
    # where the context manager lived before it became public
    home = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")
    return home.enable_x64(True)
