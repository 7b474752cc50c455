"""Priors and flow densities: normalised, consistent with their own samples, gauge invariant, exact partition functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from latflow.actions import FreeScalar, WilsonGauge
from latflow.exact import FreeField, TorusU1, TorusU1Sampler
from latflow.flows import Identity, scalar_coupling_flow, u1_coupling_flow
from latflow.groups import SUN, U1
from latflow.lattice import Geometry, shift
from latflow.models import ExactPrior, FlowModel, FreeFieldPrior, HaarPrior, NormalPrior, SequentialHeatbath
from latflow.statistics.weights import effective_sample_size, log_z

F64 = jnp.float64
SQUARE = Geometry((4, 4))
PRIORS = {
    "Haar U(1)": HaarPrior(SQUARE, U1(), F64),
    "Haar SU(2)": HaarPrior(SQUARE, SUN(2), jnp.complex128),
    "normal": NormalPrior(SQUARE, 0.7, F64),
    "free field": FreeFieldPrior(SQUARE, 0.4, F64),
    "exact U(1)": ExactPrior(TorusU1Sampler(SQUARE, 1.5, F64)),
    "sequential U(1)": SequentialHeatbath(SQUARE, U1(), 1.5),
}


@pytest.mark.parametrize("name", PRIORS)
def test_contract_of_priors(name):
    prior = PRIORS[name]
    x, log_r = jax.jit(lambda key: prior.sample_and_log_density(key))(jax.random.key(0))
    again = jax.jit(lambda key: prior.sample(key))(jax.random.key(0))
    np.testing.assert_array_equal(x, again)
    np.testing.assert_allclose(jax.jit(lambda v: prior.log_density(v))(x), log_r, atol=1e-9)
    assert log_r.shape == () and log_r.dtype == F64
    batch = jax.jit(jax.vmap(prior.sample, out_axes=-1))(jax.random.split(jax.random.key(0), 2))
    assert batch.shape == (*x.shape, 2)
    assert not np.allclose(batch[..., 0], batch[..., 1])


def test_normal_prior_against_scipy():
    x = PRIORS["normal"].sample(jax.random.key(1))
    np.testing.assert_allclose(PRIORS["normal"].log_density(x), stats.norm(scale=0.7).logpdf(np.asarray(x)).sum())


def test_free_field_prior_is_the_free_field_and_learns_its_mass():
    prior, theory = PRIORS["free field"], FreeField(SQUARE, 0.4, F64)
    x = theory.sample(jax.random.key(1))
    np.testing.assert_allclose(prior.log_density(x), theory.log_density(x), atol=1e-10)
    model = FlowModel(prior, Identity())
    assert jax.tree.leaves(model.partition()[0]) == [prior.log_m2]
    assert jax.tree.leaves(FlowModel(PRIORS["exact U(1)"], Identity()).partition()[0]) == []
    with pytest.raises(ValueError, match="positive mass"):
        FreeFieldPrior(SQUARE, 0.0)


def u1_model(mask: str, blocks: int) -> FlowModel:
    flow = u1_coupling_flow(SQUARE, key=jax.random.key(3), mask=mask, blocks=blocks, bins=4, hidden=(6,), conv=(3,), dtype=F64)
    arrays, rest = FlowModel(HaarPrior(SQUARE, U1(), F64), flow).partition()
    noisy = jax.tree.map(lambda x: x + 0.02 * jax.random.normal(jax.random.key(x.size), x.shape, x.dtype), arrays)
    return jax.tree.map(lambda a, b: b if a is None else a, noisy, rest, is_leaf=lambda x: x is None)


@pytest.mark.parametrize(("mask", "blocks"), [("coarse-to-fine", 0), ("stripes", 1)])
def test_untrained_flow_knows_the_partition_function(mask, blocks):
    """E_q[exp(-S)/q] = Z for any q: at beta = 0.3 an arbitrary flow must find the exact log Z of 2D U(1)."""
    beta = 0.3
    model, action = u1_model(mask, blocks), WilsonGauge(SQUARE, U1(), beta)

    @jax.jit
    def draw(key):
        y, log_q = model.sample_batch(key, 8192)
        return -jax.vmap(action)(y) - log_q, y[:64], log_q[:64]

    log_weight, y, log_q = draw(jax.random.key(4))
    assert effective_sample_size(log_weight) * log_weight.size > 500
    value, error = log_z(log_weight)
    assert error < 0.05
    assert abs(value - TorusU1(SQUARE, beta).log_z()) < 5 * error
    # the density evaluated backwards is the density the samples came with
    np.testing.assert_allclose(jax.jit(lambda v: model.log_q_batch(v))(y), log_q, atol=1e-9)
    # and it is gauge invariant
    omega = jax.random.uniform(jax.random.key(6), SQUARE.shape, F64, -3, 3)
    gauge = jnp.stack([omega - shift(omega, mu, 2) for mu in range(2)])
    np.testing.assert_allclose(jax.jit(lambda v: model.log_q_batch(v))(y + gauge[None]), log_q, atol=1e-9)


def test_scalar_flow_knows_the_free_partition_function():
    theory, action = FreeField(SQUARE, 1.0, F64), FreeScalar(SQUARE, 1.0)
    flow = scalar_coupling_flow(SQUARE, key=jax.random.key(1), blocks=1, hidden=(3,), transform="spline", bins=4, dtype=F64)
    model = FlowModel(FreeFieldPrior(SQUARE, 0.8, F64), flow)

    @jax.jit
    def draw(key):
        y, log_q = model.sample_batch(key, 8192)
        return -jax.vmap(action)(y) - log_q

    log_weight = draw(jax.random.key(2))
    assert effective_sample_size(log_weight) > 0.1
    value, error = log_z(log_weight)
    assert abs(value - float(theory.log_z())) < 5 * error
