"""Two-dimensional U(1): closed forms against independent numerics, and the sampler against the closed forms."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from latflow.actions import WilsonGauge
from latflow.exact import TorusU1, TorusU1Sampler, exact_values, fixed_von_mises
from latflow.exact.u1_2d_sampler import _bound_excess
from latflow.groups import U1, wrap
from latflow.lattice import Geometry
from latflow.loops import plaquette, polyakov_loop, wilson_loop

CASES = [((8, 6), 2.0), ((4, 4), 16.0), ((12, 16), 7.0)]
DRAWS = 8192


@pytest.mark.parametrize("beta", [0.3, 2.0, 9.0])
def test_small_torus_by_brute_force(beta):
    """2 x 2: three free plaquettes, integrated on a periodic grid (exponentially accurate)."""
    n = 48
    P = 2 * np.pi * np.arange(n) / n
    a, b, c = np.meshgrid(P, P, P, indexing="ij")
    weight = np.exp(beta * (np.cos(a) + np.cos(b) + np.cos(c) + np.cos(a + b + c) - 4))
    theory = TorusU1(Geometry((2, 2)), beta)
    assert theory.log_z() == pytest.approx(np.log(weight.mean()) + 4 * beta, abs=1e-11)
    assert theory.plaquette() == pytest.approx((weight * np.cos(a)).sum() / weight.sum(), abs=1e-11)
    assert theory.wilson_loop(2) == pytest.approx((weight * np.cos(a + b)).sum() / weight.sum(), abs=1e-11)
    total = np.cos(a) + np.cos(b) + np.cos(c) + np.cos(a + b + c)
    mean = (weight * total).sum() / weight.sum()
    variance = (weight * (total - mean) ** 2).sum() / weight.sum()
    assert theory.action_variance() == pytest.approx(beta**2 * variance / 4, abs=1e-9)


@pytest.mark.parametrize("shape, beta", [((3, 3), 0.0), ((4, 6), 1.0), ((8, 8), 2.0), ((16, 16), 7.0), ((128, 128), 50.0)])
def test_topology_against_moments_of_one_plaquette(shape, beta):
    """<Q^2> = -Z''/Z with c' and c'' of the one-plaquette integral by quadrature."""
    V = int(np.prod(shape))
    x, w = np.polynomial.legendre.leggauss(400)
    P, w = np.pi * x, w * np.exp(beta * (np.cos(np.pi * x) - 1))
    m = np.arange(-40, 41)[:, None]
    c, c1, c2 = np.cos(m * P) @ w, (P * np.sin(m * P)) @ w, (P**2 * np.cos(m * P)) @ w
    c, c1, c2 = c / c[40], c1 / c[40], c2 / c[40]
    expected = np.sum(V * c ** (V - 1) * c2 - V * (V - 1) * c ** (V - 2) * c1**2) / np.sum(c**V) / (4 * np.pi**2)
    theory = TorusU1(Geometry(shape), beta)
    assert theory.q2() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert theory.topological_susceptibility() == pytest.approx(expected / V, rel=1e-9, abs=1e-12)
    Q, p = theory.q_distribution()
    assert p.sum() == pytest.approx(1) and np.allclose(p, p[::-1]) and np.array_equal(Q, -Q[::-1])


def test_closed_forms_at_the_edges():
    huge = TorusU1(Geometry((128, 128)), 50.0)
    step = 1e-3
    slope = (TorusU1(huge.geometry, 50 + step).log_z() - TorusU1(huge.geometry, 50 - step).log_z()) / (2 * step)
    assert huge.plaquette() == pytest.approx(slope / 128**2, rel=1e-8)
    assert huge.wilson_loop(128**2) == pytest.approx(1) and huge.wilson_loop(0) == pytest.approx(1)
    assert huge.action_density() == pytest.approx(-50 * huge.plaquette())
    free = TorusU1(Geometry((4, 5)), 0.0)
    assert free.log_z() == 0 and free.plaquette() == 0 and free.action_variance() == 0
    # iid uniform angles, conditioned on their sum: variance V/12 up to the discreteness of Q
    assert TorusU1(Geometry((32, 32)), 0.0).q2() == pytest.approx(32**2 / 12, rel=1e-9)
    assert TorusU1(Geometry((1, 2)), 1.0).q2() == 0


@pytest.mark.parametrize("build", [TorusU1, TorusU1Sampler])
def test_impossible_theories_are_refused(build):
    with pytest.raises(ValueError, match="two dimensions"):
        build(Geometry((4, 4, 4)), 1.0)
    with pytest.raises(ValueError, match="beta >= 0"):
        build(Geometry((4, 4)), -1.0)
    with pytest.raises(ValueError, match="beta >= 0"):
        build(Geometry((4, 4)), float("nan"))
    with pytest.raises(ValueError, match="does not fit"):
        TorusU1(Geometry((4, 4)), 1.0).wilson_loop(17)


def test_exact_values_by_name():
    geometry = Geometry((8, 6))
    theory = TorusU1(geometry, 2.0)
    values = exact_values(U1(), geometry, ["wilson_loop_2x3", "creutz_ratio_2x2", "wilson_loop_9x1", "nonsense"], beta=2.0)
    assert values["wilson_loop_2x3"] == theory.wilson_loop(6)
    assert values["plaquette"] == theory.plaquette() and values["log_z"] == theory.log_z()
    w = theory.wilson_loop
    assert values["creutz_ratio_2x2"] == pytest.approx(-np.log(w(4) * w(1) / (w(2) * w(2))))
    assert "wilson_loop_9x1" not in values and "nonsense" not in values
    assert exact_values(U1(), Geometry((4, 4, 4)), beta=2.0) == {"polyakov": 0.0}


@pytest.mark.parametrize("beta", [0.0, 1.0, 16.0])
def test_von_mises_draws(beta):
    draws = np.asarray(jax.jit(lambda key: fixed_von_mises(key, beta, (40000,)))(jax.random.key(3)))
    cdf = scipy.stats.vonmises(beta).cdf if beta else scipy.stats.uniform(-np.pi, 2 * np.pi).cdf
    assert scipy.stats.kstest(draws, cdf).pvalue > 1e-3
    assert np.abs(draws).max() <= np.pi
    # the far tail too
    edge = np.quantile(draws, 0.999)
    assert np.sum(np.abs(draws) > edge) == pytest.approx(80, abs=45)
    assert abs(np.mean(np.abs(draws) > edge) - 2 * (1 - cdf(edge))) < 5 * np.sqrt(2e-3 / draws.size)


@functools.cache
def ensemble(shape, beta):
    """(links, log density) of `DRAWS` independent draws."""
    sampler = TorusU1Sampler(Geometry(shape), beta)
    keys = jax.random.split(jax.random.key(1234), DRAWS)
    links, log_density = jax.jit(jax.vmap(sampler.sample_and_log_density, out_axes=(-1, 0)))(keys)
    return jnp.moveaxis(links, -1, 0), log_density


def within(samples, expected, sigma=5.0):
    samples = np.asarray(samples, np.float64)
    error = samples.std(ddof=1) / np.sqrt(len(samples))
    assert error > 0
    assert abs(samples.mean() - expected) < sigma * error, (samples.mean(), expected, error)
    return (samples.mean() - expected) / error


@pytest.mark.parametrize("shape, beta", CASES)
def test_sampler_reproduces_the_closed_forms(shape, beta):
    geometry, group = Geometry(shape), U1()
    theory = TorusU1(geometry, beta)
    links, log_density = ensemble(shape, beta)
    P = np.asarray(wrap(jax.vmap(lambda x: plaquette(group, geometry, x, 0, 1))(links)))
    cosines = np.cos(P)
    Q = P.sum((1, 2)) / (2 * np.pi)
    assert np.allclose(Q, np.round(Q), atol=1e-12)
    loop = np.asarray(jax.vmap(lambda x: wilson_loop(group, geometry, x, 2, 3, 0, 1))(links))
    pulls = [
        within(cosines.mean((1, 2)), theory.plaquette()),
        within(cosines[:, 0, 0], theory.plaquette()),
        within(cosines[:, -1, -1], theory.plaquette()),
        within(np.cos(loop).mean((1, 2)), theory.wilson_loop(6)),
        within(np.cos(P[:, 0, 0] + P[:, -1, -1]), theory.wilson_loop(2)),
    ]
    # fluctuations of the action, hence the joint distribution: <exp((b' - b) sum cos P)> = Z(b') / Z(b)
    other = 1.1 * beta if beta < 10 else beta + 1.0
    total = cosines.sum((1, 2))
    log_ratio = TorusU1(geometry, other).log_z() - theory.log_z()
    pulls.append(within(np.exp((other - beta) * total - log_ratio), 1.0))
    pulls.append(
        within(beta**2 * (total - geometry.volume * theory.plaquette()) ** 2 / geometry.volume, theory.action_variance())
    )
    if theory.q2() > 1e-3:
        pulls.append(within(Q, 0.0))
        pulls.append(within(np.round(Q) ** 2, theory.q2()))
        charges, p = theory.q_distribution()
        common = p * DRAWS > 10
        counts = np.array([(np.round(Q) == q).sum() for q in charges[common]])
        chi2 = np.sum((counts - DRAWS * p[common]) ** 2 / (DRAWS * p[common]))
        assert scipy.stats.chi2(common.sum()).sf(chi2) > 1e-4
    else:
        assert np.all(np.round(Q) == 0)
    assert np.mean(np.square(pulls)) < 3
    action = jax.vmap(WilsonGauge(geometry, group, beta))(links)
    assert np.allclose(np.asarray(log_density), -np.asarray(action) - theory.log_z(), atol=1e-10)


@pytest.mark.parametrize("shape, beta", CASES)
def test_marginal_of_one_plaquette(shape, beta):
    """p(P) proportional to exp(beta cos P) sum_m I_m^(V-1) cos(m P), wherever the plaquette is."""
    links, _ = ensemble(shape, beta)
    geometry = Geometry(shape)
    P = np.asarray(wrap(jax.vmap(lambda x: plaquette(U1(), geometry, x, 0, 1))(links)))
    grid = np.linspace(-np.pi, np.pi, 4001)
    m = np.arange(-40, 41)[:, None]
    ratios = (scipy.special.ive(m, beta) / scipy.special.ive(0, beta)) ** (geometry.volume - 1)
    density = np.exp(beta * (np.cos(grid) - 1)) * (ratios * np.cos(m * grid)).sum(0)
    cumulative = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    for site in [(0, 0), (shape[0] - 1, 2), (1, shape[1] - 1), (shape[0] - 1, shape[1] - 1)]:
        result = scipy.stats.kstest(P[(slice(None), *site)], lambda x: np.interp(x, grid, cumulative / cumulative[-1]))
        assert result.pvalue > 1e-4, site


def test_links_are_uniform_and_gauge_is_random():
    shape, beta = CASES[0]
    links, _ = ensemble(shape, beta)
    geometry, uniform = Geometry(shape), scipy.stats.uniform(-np.pi, 2 * np.pi).cdf
    angles = np.asarray(links)
    for link in [(0, 0, 0), (0, shape[0] - 1, 2), (1, 0, shape[1] - 1), (1, 3, 2)]:
        assert scipy.stats.kstest(angles[(slice(None), *link)], uniform).pvalue > 1e-4
    for direction in (0, 1):
        loop = np.asarray(wrap(jax.vmap(lambda x, d=direction: polyakov_loop(U1(), geometry, x, d))(links)))
        assert scipy.stats.kstest(loop[:, 1], uniform).pvalue > 1e-4
    # anything that is not gauge invariant averages to zero: open lines, and products of links that do not close
    for phase in (angles[:, 0, 0, 0] + angles[:, 0, 1, 0], angles[:, 0, 2, 2] - angles[:, 1, 2, 2], angles[:, 1, 1, 1]):
        within(np.cos(phase), 0.0)
        within(np.sin(phase), 0.0)


def test_frozen_lattices_are_sampled_by_rejection():
    """V = 1, where the constraint fixes everything, and 2 x 2 at beta = 50, where the bound on r is far above its mean."""
    one = TorusU1Sampler(Geometry((1, 1)), 50.0)
    theta, log_density = jax.jit(one.sample_and_log_density)(jax.random.key(0))
    assert theta.shape == (2, 1, 1) and float(log_density) == pytest.approx(0, abs=1e-12)
    geometry = Geometry((2, 2))
    sampler = TorusU1Sampler(geometry, 50.0)
    keys = jax.random.split(jax.random.key(5), 4096)
    links = jax.jit(jax.vmap(sampler.sample))(keys)
    P = jax.vmap(lambda x: plaquette(U1(), geometry, x, 0, 1))(links)
    within(np.cos(np.asarray(P))[:, 1, 0], TorusU1(geometry, 50.0).plaquette())


def test_single_precision_keeps_the_constraint():
    geometry = Geometry((128, 96))
    sampler = TorusU1Sampler(geometry, 50.0, jnp.float32)
    theta, log_density = jax.jit(sampler.sample_and_log_density)(jax.random.key(0))
    assert theta.dtype == jnp.float32 and log_density.dtype == jnp.float64
    exact = np.asarray(theta, np.float64)
    P = exact[0] + np.roll(exact[1], -1, 0) - np.roll(exact[0], -1, 1) - exact[1]
    wrapped = np.asarray(wrap(jnp.asarray(P)))
    # without accumulated error no plaquette stands out: beta = 50 keeps all of them within |P| < 1
    assert np.abs(wrapped).max() < 1
    expected = 50 * np.cos(wrapped).sum() - TorusU1(geometry, 50.0).log_z()
    assert float(log_density) == pytest.approx(expected, rel=1e-6)
    assert abs(np.cos(wrapped).mean() - TorusU1(geometry, 50.0).plaquette()) < 5 * np.sqrt(0.5) / 50 / np.sqrt(geometry.volume)


def test_batch_equals_loop():
    sampler = TorusU1Sampler(Geometry((4, 6)), 8.0)
    keys = jax.random.split(jax.random.key(2), 5)
    last = jax.jit(jax.vmap(sampler.sample, out_axes=-1))(keys)
    one = jax.jit(sampler.sample)
    for i, key in enumerate(keys):
        assert np.allclose(np.asarray(last[..., i]), np.asarray(one(key)), atol=1e-12)


def test_rate_of_rejections():
    """2 x 2 at beta = 2 rejects most; the rate is known exactly."""
    sampler = TorusU1Sampler(Geometry((2, 2)), 2.0)
    bound = 1 + _bound_excess(4, 2.0)
    accepted = jax.jit(jax.vmap(lambda key: sampler._attempt(key, bound).accepted))(jax.random.split(jax.random.key(9), 8192))
    within(np.asarray(accepted), sampler.acceptance)
    assert 0.8 < sampler.acceptance < 0.9
    assert TorusU1Sampler(Geometry((64, 64)), 16.0).acceptance == pytest.approx(1, abs=1e-11)
