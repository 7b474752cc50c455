"""SU(N) heatbath and overrelaxation: the SU(2) law they draw from, what they leave unchanged, and agreement with HMC."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from latflow.actions import WilsonGauge
from latflow.groups import SUN
from latflow.kernels import HMC, HeatbathSUN, OverrelaxationSUN, boltzmann_quaternion, heatbath_sweep
from latflow.lattice import Geometry


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_quaternions_follow_their_distribution(dtype):
    """<1 - s_0> = 1 - I_2/I_1 at every concentration, unit length, uniform direction."""
    alphas, n = np.array([0.0, 1e-3, 0.5, 0.999, 1.001, 4.0, 60.0, 1e4]), 20000
    draws = jax.jit(boltzmann_quaternion)(jax.random.key(3), jnp.broadcast_to(jnp.asarray(alphas, dtype)[:, None], (8, n)))
    assert all(x.dtype == dtype for x in draws)
    s0, *s = (np.asarray(x, np.float64) for x in draws)
    length2 = sum(x**2 for x in s)
    np.testing.assert_allclose(s0**2 + length2, 1, atol=1e-5 if dtype == "float32" else 1e-12)
    for i, alpha in enumerate(alphas):
        y = length2[i] / (1 + s0[i]) if alpha > 10 else 1 - s0[i]  # resolves narrow distributions in single precision
        exact = 1 - scipy.special.ive(2, alpha) / scipy.special.ive(1, alpha) if alpha else 1.0
        assert abs(y.mean() - exact) < 5 * y.std() / np.sqrt(n)
        for x in s:
            assert abs(x[i].mean()) < 5 * x[i].std() / np.sqrt(n)
            assert abs((3 * x[i] ** 2 - length2[i]).mean()) < 5 * (3 * x[i] ** 2 - length2[i]).std() / np.sqrt(n)


def test_impossible_concentrations_do_not_hang():
    draws = jax.jit(boltzmann_quaternion)(jax.random.key(0), jnp.array([jnp.nan, jnp.inf, 1.0], jnp.float32))
    np.testing.assert_array_equal(np.isfinite(draws[0]), [False, False, True])


@pytest.mark.parametrize("Nc, shape, beta", [(2, (4, 4), 2.0), (3, (2, 4, 2), 5.0), (4, (2, 2), 6.0), (3, (2, 2, 2), -3.0)])
def test_overrelaxation_is_microcanonical_and_stays_on_the_group(Nc, shape, beta):
    group = SUN(Nc)
    kernel = OverrelaxationSUN(WilsonGauge(Geometry(shape), group, beta))
    links = group.haar(jax.random.key(1), (len(shape), *shape), jnp.complex128)
    state, info = eqx.filter_jit(lambda key, links: kernel.step(key, kernel.init(links)))(jax.random.key(0), links)
    assert abs(info.delta_action) < 1e-10
    assert np.mean(np.abs(state.field - links) > 1e-3) > 0.9
    unit = group.multiply(state.field, group.adjoint(state.field))
    np.testing.assert_allclose(unit, jnp.broadcast_to(group.identity(links.shape[2:]), unit.shape), atol=1e-12)


def run(kernel, group, geometry, chains, discard, steps, seed):
    links = jax.vmap(lambda key: group.haar(key, (geometry.Nd, *geometry.shape), jnp.complex128))(
        jax.random.split(jax.random.key(seed), chains)
    )

    @eqx.filter_jit
    def chain(key, links):
        def one(state, key):
            state, _ = kernel.step(key, state)
            return state, state.action

        return jax.lax.scan(one, kernel.init(links), jax.random.split(key, discard + steps))[1][discard:]

    keys = jax.random.split(jax.random.key(seed + 1), chains)
    return np.asarray(jax.vmap(chain)(keys, links)).mean(1) / geometry.volume


@pytest.mark.parametrize("Nc, shape, beta", [(3, (2, 2, 4), 4.0), (2, (2, 2, 2, 4), -1.5)])
def test_heatbath_agrees_with_hmc_above_two_dimensions(Nc, shape, beta):
    group, geometry = SUN(Nc), Geometry(shape)
    action = WilsonGauge(geometry, group, beta)
    ours = run(heatbath_sweep(action, 1), group, geometry, 32, 15, 15, 5)
    hmc = run(HMC(action, 1.0, 4), group, geometry, 32, 25, 25, 7)
    error = np.hypot(ours.std(ddof=1), hmc.std(ddof=1)) / np.sqrt(32)
    assert error < 0.02 * abs(hmc.mean())
    assert abs(ours.mean() - hmc.mean()) < 5 * error


def test_heatbath_of_su2_forgets_the_link():
    """With the staples fixed the new link does not depend on the old one: in two dimensions, one direction and parity."""
    group, geometry = SUN(2), Geometry((2, 2))
    kernel = HeatbathSUN(WilsonGauge(geometry, group, 2.0))
    links = group.haar(jax.random.key(2), (2, 2, 2), jnp.complex128)
    other = links.at[:, :, 0, 0, 0].set(group.haar(jax.random.key(3), (), jnp.complex128))  # the first link to be updated
    step = eqx.filter_jit(lambda links: kernel.step(jax.random.key(0), kernel.init(links))[0].field)
    np.testing.assert_allclose(step(links), step(other), atol=1e-12)
