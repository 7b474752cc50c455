"""Error analysis against processes whose autocorrelation, weights and moments are known."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import norm

from latflow import statistics

TAU = 4.5  # of an AR(1) process with coefficient 0.8: (1 + a) / (1 - a) / 2


def ar1(rng, n, chains=1, a=0.8):
    """Stationary AR(1) of unit variance, (n, chains)."""
    noise = rng.normal(size=(n, chains)) * np.sqrt(1 - a * a)
    noise[0] = rng.normal(size=chains)
    return lfilter([1], [1, -a], noise, axis=0)


def test_gamma_method_on_ar1():
    rng = np.random.default_rng(1)
    one = statistics.estimate(ar1(rng, 40000)[:, 0])
    assert abs(one.tau_int - TAU) < 4 * one.tau_int_error and 0 < one.tau_int_error < 0.1 * TAU
    assert one.error == pytest.approx(np.sqrt(2 * TAU / 40000), rel=0.15)
    assert abs(one.value) < 5 * one.error
    assert one.ess == pytest.approx(40000 / (2 * one.tau_int))
    replica = statistics.estimate(ar1(rng, 5000, 8))
    assert abs(replica.tau_int - TAU) < 4 * replica.tau_int_error
    assert replica.error == pytest.approx(one.error, rel=0.25)
    white = statistics.estimate(rng.normal(size=20000))
    assert white.tau_int == pytest.approx(0.5, abs=5 * white.tau_int_error + 0.01)


def test_quoted_errors_cover():
    """The pulls of 300 repetitions have unit variance, also for a nonlinear function."""
    rng = np.random.default_rng(2)
    pulls, derived = [], []
    for _ in range(150):
        series = ar1(rng, 1500, 2)
        e = statistics.estimate(series)
        pulls.append(e.value / e.error)
        f = statistics.derived(lambda x, y: jnp.log((2 + x) / (3 + y)), [series, series**2])
        derived.append((f.value - np.log(2 / 4)) / f.error)
    assert np.std(pulls) == pytest.approx(1, abs=0.25) and np.std(derived) == pytest.approx(1, abs=0.25)
    assert abs(np.mean(derived)) < 0.5


def test_jit_diagnostics_agree():
    rng = np.random.default_rng(3)
    series = ar1(rng, 20000, 2)
    quick = jax.jit(statistics.integrated_time)
    assert float(quick(jnp.asarray(series))) == pytest.approx(statistics.estimate(series).tau_int, rel=0.02)
    assert float(quick(jnp.full((20000, 2), 0.3))) == 0.5
    rho = np.asarray(statistics.autocorrelation(jnp.asarray(series)))
    assert rho[0] == pytest.approx(1) and rho[1] == pytest.approx(0.8, abs=0.03)
    log_w = rng.normal(size=999).astype(np.float32)
    traced = statistics.effective_sample_size_traced(jnp.asarray(log_w))
    assert traced.dtype == jnp.float64
    assert float(traced) == pytest.approx(statistics.effective_sample_size(log_w), rel=1e-12)
    assert float(statistics.log_mean_exp(jnp.asarray(log_w))) == pytest.approx(statistics.log_z(log_w)[0], rel=1e-12)


def test_constant_series_and_frozen_replica():
    constant = statistics.estimate(np.full((100, 3), 0.1))
    assert constant.value == pytest.approx(0.1)
    assert (constant.error, constant.tau_int, constant.tau_int_error, constant.ess) == (0.0, 0.5, 0.0, 300.0)
    again = statistics.reweighted(np.full(100, 0.1), np.random.default_rng(0).normal(size=100))
    assert (again.value, again.error, again.tau_int) == (pytest.approx(0.1), 0.0, 0.5)
    # chains that are stuck in different places disagree, and the error must say so
    stuck = np.arange(8.0)[None, :] * np.ones((200, 1))
    e = statistics.estimate(stuck)
    assert e.value == pytest.approx(3.5) and e.error > 0.5 * np.std(np.arange(8)) / np.sqrt(8) and e.tau_int > 20


def test_vectors_and_derived_quantities():
    rng = np.random.default_rng(4)
    vector = rng.normal(loc=[1.0, 2.0, 4.0], size=(4000, 1, 3))
    parts = statistics.estimate(vector)
    for k in range(3):
        assert parts[k] == statistics.estimate(vector[:, 0, k])
    ratio = statistics.derived(lambda v: v[1:] / v[:-1], [vector])
    assert [r.value for r in ratio] == pytest.approx([2, 2], abs=0.1)
    # common fluctuations cancel
    same = statistics.derived(lambda x, y: x - y, [vector[:, 0, 0], vector[:, 0, 0] + 1])
    assert same.value == pytest.approx(-1) and same.error < 1e-12
    # where a function of the means does not exist, that entry alone is undefined
    half = statistics.derived(lambda v: jnp.log(v - 1.5), [vector])
    assert np.isnan(half[0].value) and np.isnan(half[0].error) and np.isfinite(half[1].error)


def test_reweighting_a_gaussian():
    """x ~ N(0, 1) reweighted to N(m, 1): w = exp(m x), Z = exp(m^2 / 2), ESS = exp(-m^2)."""
    rng, m = np.random.default_rng(5), 0.7
    x = rng.normal(size=40000)
    log_w = m * x + 300.0
    ess, ess_error = statistics.ess_with_error(log_w)
    assert abs(ess - np.exp(-(m**2))) < 5 * ess_error and 0 < ess_error < 0.02
    assert ess == pytest.approx(statistics.effective_sample_size(log_w), abs=ess_error)
    z, z_error = statistics.log_z(log_w)
    assert abs(z - 300 - m**2 / 2) < 5 * z_error
    assert z_error == pytest.approx(np.sqrt((np.exp(m**2) - 1) / x.size), rel=0.1)
    mean = statistics.reweighted(x, log_w)
    assert abs(mean.value - m) < 5 * mean.error
    # delta-method variance of a self-normalised mean: <w^2 (x - m)^2> / <w>^2 = exp(m^2) (1 + m^2)
    assert mean.error == pytest.approx(np.sqrt(np.exp(m**2) * (1 + m**2) / x.size), rel=0.1)
    variance = statistics.derived(lambda a, b: b - a**2, [x, x**2], log_w)
    assert abs(variance.value - 1) < 5 * variance.error
    chains = statistics.reweighted(x.reshape(10000, 4), log_w.reshape(10000, 4))
    assert chains.value == pytest.approx(mean.value) and chains.error == pytest.approx(mean.error, rel=0.1)


def test_jackknife_removes_the_bias_of_the_ess():
    rng, m, n = np.random.default_rng(6), 0.8, 100
    log_w = m * rng.normal(size=(2000, n))
    plain = np.mean([statistics.effective_sample_size(w) for w in log_w])
    pairs = np.array([statistics.ess_with_error(w) for w in log_w])
    exact = np.exp(-(m**2))
    assert abs(pairs[:, 0].mean() - exact) < abs(plain - exact) / 2
    assert np.sqrt(np.mean(pairs[:, 1] ** 2)) == pytest.approx(pairs[:, 0].std(), rel=0.25)


def test_weights_at_the_edges():
    assert statistics.ess_with_error(np.full(10, -1e6)) == (pytest.approx(1.0), pytest.approx(0.0))
    assert statistics.ess_with_error([3.0]) == (1.0, 0.0)
    assert statistics.effective_sample_size([0.0, -np.inf]) == 0.5
    assert statistics.ess_with_error([0.0, -np.inf, -np.inf])[0] >= 1 / 3
    assert statistics.log_z([1e5, 1e5])[0] == pytest.approx(1e5)
    for bad, message in [
        ([0.0, np.nan], "NaN"),
        ([np.inf], "inf"),
        ([-np.inf], "support"),
        ([], "non-empty"),
        ([[0.0]], "one-"),
    ]:
        with pytest.raises(ValueError, match=message):
            statistics.effective_sample_size(bad)


def test_bad_series_are_refused():
    with pytest.raises(ValueError, match=r"1 of 50 measurements are NaN or infinite, the first at \(7, 0\)"):
        statistics.estimate(np.where(np.arange(50) == 7, np.nan, 1.0))
    with pytest.raises(ValueError, match="at least 5"):
        statistics.estimate([1.0, 2.0])
    with pytest.raises(ValueError, match="do not belong"):
        statistics.reweighted(np.ones(10), np.zeros(9))
    with pytest.raises(ValueError, match="real array"):
        statistics.estimate(np.ones(10) * 1j)


def test_histograms():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(8000, 2))
    edges = np.linspace(-3, 3, 13)
    exact = np.diff(norm.cdf(edges))
    h = statistics.histogram(x, edges)
    assert np.all(np.abs(h.probability - exact) < 5 * h.error)
    assert np.allclose(h.error, np.sqrt(exact * (1 - exact) / x.size), rtol=0.3)
    assert np.allclose(h.density * np.diff(edges), h.probability)
    value, error = statistics.ratio(h, exact)
    assert np.all(np.abs(value - 1) < 5 * error)
    weighted = statistics.histogram(x - 0.5, edges, 0.5 * (x - 0.5))
    value, error = statistics.ratio(weighted, h)
    assert np.all(np.abs(value - 1) < 5 * error)
    # blocks see the autocorrelation that single measurements miss
    slow = ar1(rng, 20000)
    halves = [-10.0, 0.0, 10.0]
    naive, blocked = statistics.histogram(slow, halves), statistics.histogram(slow, halves, block=100)
    assert np.allclose(naive.probability, blocked.probability)
    # tau_int of a sign is sum_t (2 / pi) arcsin(0.8^t) + 1/2
    expected = np.sqrt(1 + 2 * np.sum(2 / np.pi * np.arcsin(0.8 ** np.arange(1, 60))))
    assert blocked.error / naive.error == pytest.approx([expected] * 2, rel=0.3)
    empty, undefined = statistics.ratio(h, np.where(np.arange(12) == 3, 0, exact))
    assert np.isnan(empty[3]) and np.isnan(undefined[3])
    with pytest.raises(ValueError, match="ascending"):
        statistics.histogram(x, [1.0, 0.0])
    with pytest.raises(ValueError, match="finite"):
        statistics.histogram([np.nan], edges)
    with pytest.raises(ValueError, match="does not fit"):
        statistics.histogram(np.ones(5), edges, block=6)


def test_bootstrap_of_a_function():
    rng = np.random.default_rng(8)
    x = rng.normal(size=5000)
    value, error = statistics.bootstrap(
        lambda x, y: np.mean(x) / np.mean(y), x + 2, x + 2 + rng.normal(size=5000), resamples=200
    )
    assert abs(value - 1) < 5 * error
    assert error == pytest.approx(1 / 2 / np.sqrt(5000), rel=0.3)
    _, blocked = statistics.bootstrap(np.mean, ar1(rng, 5000)[:, 0], block=100, resamples=200)
    assert blocked == pytest.approx(np.sqrt(2 * TAU / 5000), rel=0.4)


def test_the_library_imports_without_pyerrors():
    code = "import sys; sys.modules['pyerrors'] = None; import latflow.statistics, latflow.observables"
    subprocess.run([sys.executable, "-c", code], check=True)
