"""Quick diagnostics that can run inside jit. Final numbers come from `weights` and `gamma`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def _double(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return x.astype(jax.dtypes.canonicalize_dtype(np.float64))


def log_mean_exp(log_weight: Float[Array, " n"]) -> Float[Array, ""]:
    """log(mean(exp(log_weight))), in float64 where JAX has it."""
    return jax.nn.logsumexp(_double(log_weight)) - np.log(log_weight.size)


def effective_sample_size_traced(log_weight: Float[Array, " n"]) -> Float[Array, ""]:
    """(sum w)^2 / (n sum w^2), in float64 where JAX has it; NaN if a log weight is NaN."""
    log_w = _double(log_weight)
    return jnp.exp(2 * jax.nn.logsumexp(log_w) - jax.nn.logsumexp(2 * log_w)) / log_w.size


def autocorrelation(series: Float[Array, "n chains"]) -> Float[Array, " n"]:
    """rho(t) around the mean over all chains, t = 0 ... n - 1, by FFT; 1, 0, 0, ... for a constant series."""
    x = _double(series)
    n = x.shape[0]
    x = x - jnp.mean(x)
    power = jnp.abs(jnp.fft.rfft(x, 2 * n, axis=0)) ** 2
    gamma = jnp.sum(jnp.fft.irfft(power, 2 * n, axis=0)[:n], axis=1) / (n - jnp.arange(n)).astype(x.dtype)
    constant = gamma[0] <= 1e-28 * jnp.max(jnp.abs(series).astype(x.dtype)) ** 2
    return jnp.where(constant, (jnp.arange(n) == 0).astype(x.dtype), gamma / jnp.where(constant, 1, gamma[0]))


def integrated_time(series: Float[Array, "n chains"], S: float = 2.0) -> Float[Array, ""]:
    """tau_int with Wolff's automatic window (hep-lat/0306017, Eqs. 50-52); 1/2 for white noise and for a constant."""
    rho = autocorrelation(series)
    n = rho.size // 2 + 1
    tau = jnp.maximum(jnp.cumsum(rho[:n]) - 0.5, 0.5 + 1e-12)
    decay = S / jnp.log((2 * tau + 1) / (2 * tau - 1))
    window = jnp.arange(n).astype(rho.dtype)
    stop = jnp.exp(-window / decay) - decay / jnp.sqrt(jnp.maximum(window, 1) * series.size) < 0
    stop = (stop & (window > 0)) | (window == n - 1)
    W = jnp.argmax(stop)
    corrected = tau[W] * (1 + (2 * W + 1) / series.size) / (1 + 1 / series.size)  # Eq. 49
    return jnp.where(jnp.any(rho[1:n] != 0), corrected, 0.5)
