"""Draws of single plaquettes against reweighted Haar draws, and of whole lattices against closed forms."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latflow.exact import TorusSUN, TorusSUNSampler
from latflow.exact.boltzmann import boltzmann_matrix, boltzmann_su3, surroundings
from latflow.exact.sun_2d_sampler import class_density
from latflow.groups import SUN
from latflow.lattice import Geometry
from latflow.loops import wilson_loop

C128 = jnp.complex128


@functools.cache
def haar_draws(Nc: int, n: int = 100000):
    """Haar matrices, for all comparisons."""
    return jax.jit(lambda key: SUN(Nc).haar(key, (n,), C128))(jax.random.key(2))


def compare(drawn, haar, log_weight, observables) -> None:
    weight = np.exp(np.asarray(log_weight) - np.max(log_weight))
    weight /= weight.sum()
    assert 1 / np.sum(weight**2) > 2000
    for f in observables:
        x, y = np.asarray(f(drawn)), np.asarray(f(haar))
        mean = np.sum(weight * y)
        error = np.sqrt(x.var() / x.size + np.sum(weight**2 * (y - mean) ** 2))
        assert abs(x.mean() - mean) < 5 * error


@pytest.mark.parametrize("d", [0.0, 0.3, 0.8, 3.0])
def test_boltzmann_su3(d):
    group = SUN(3)
    drawn = jax.jit(boltzmann_su3)(jax.random.key(1), jnp.full((40000,), d))
    assert group.reunitarise(drawn)[1] < 1e-12
    haar = haar_draws(3, 400000 if d > 1 else 100000)
    observables = (
        group.re_trace,
        lambda u: group.re_trace(u) ** 2,
        lambda u: jnp.abs(u[2, 2]) ** 2,
        lambda u: jnp.abs(u[0, 0]) ** 2,
        lambda u: u[0, 0].real * u[1, 1].real,
    )
    compare(drawn, haar, d * group.re_trace(haar), observables)


@pytest.mark.parametrize("Nc", [2, 3])
@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (1.2, 0.7)])
def test_boltzmann_matrix(Nc, a, b):
    group, n = SUN(Nc), 60000
    C = group.haar(jax.random.key(4), (1,), C128)
    around = surroundings(a, b, jnp.tile(C, (1, 1, n)))
    drawn, log_keep = jax.jit(boltzmann_matrix)(jax.random.key(1), around)
    assert np.all(log_keep <= 1e-12)
    drawn = drawn[:, :, np.asarray(jax.random.uniform(jax.random.key(3), (n,)) < jnp.exp(log_keep))]
    haar = haar_draws(Nc)
    M = a * group.identity((1,), C128) + b * group.adjoint(C)
    energy = group.re_trace(group.multiply(haar, M))
    observables = (
        group.re_trace,
        lambda u: group.re_trace(group.multiply(u, M)) ** 2,
        lambda u: u[0, 1].real,
        lambda u: u[0, 0].imag,
    )
    compare(drawn, haar, energy, observables)


@pytest.mark.parametrize(("Nc", "beta", "n"), [(2, 2.2, 2), (2, 20.0, 3), (3, 5.0, 2), (3, 9.0, 4)])
def test_envelopes_hold_between_grid_points(Nc, beta, n):
    group, K = SUN(Nc), class_density(Nc, beta, n)
    x = group.random_algebra(jax.random.key(1), (20000,), C128)
    for scale in (0.05, 0.2, 0.5, 2.0):
        ratio = K.below_envelope(group.exp(scale * x))
        assert float(jnp.max(ratio)) <= 1
    assert float(jnp.max(K.below_envelope(group.exp(0.3 * x)))) > 0.5


@pytest.mark.parametrize(("Nc", "shape", "beta"), [(2, (3, 3), 2.2), (3, (2, 4), 5.0)])
def test_lattices_agree_with_closed_forms(Nc, shape, beta):
    group, geometry, n = SUN(Nc), Geometry(shape), 2048
    exact, sampler = TorusSUN(geometry, group, beta), TorusSUNSampler(geometry, group, beta)
    links, log_density = jax.jit(lambda k: jax.vmap(sampler.sample_and_log_density)(jax.random.split(k, n)))(jax.random.key(1))
    sizes = ((1, 1), (1, 2), (2, 2))

    def means(u):
        return [jnp.mean(group.re_trace(wilson_loop(group, geometry, u, R, T, 0, 1))) / Nc for R, T in sizes]

    for (R, T), loops in zip(sizes, jax.jit(jax.vmap(means))(links), strict=True):
        assert abs(float(jnp.mean(loops)) - exact.wilson_loop(R * T)) < 5 * float(jnp.std(loops)) / np.sqrt(n)
    # E_q[1 / q] = 1, over Haar measure; here through the mean of log q, known from the plaquette
    expected = beta * geometry.volume * exact.plaquette() - exact.log_z()
    assert abs(float(jnp.mean(log_density)) - expected) < 5 * float(jnp.std(log_density)) / np.sqrt(n)


def test_the_sampler_refuses_what_it_cannot_draw():
    with pytest.raises(ValueError, match="SU\\(2\\) and SU\\(3\\)"):
        TorusSUNSampler(Geometry((4, 4)), SUN(4), 2.0)
    with pytest.raises(ValueError, match="two dimensions"):
        TorusSUNSampler(Geometry((4, 4, 4)), SUN(3), 2.0)
