"""An ensemble of another sampler as prior: every configuration once, weights relative to the prior's action."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latflow.actions import WilsonGauge
from latflow.errors import LatflowError
from latflow.exact import TorusU1Sampler
from latflow.exact.u1_2d import TorusU1
from latflow.flows import Identity
from latflow.groups import U1
from latflow.io.ensemble import EnsembleFile
from latflow.lattice import Geometry
from latflow.models import FlowModel, StoredPrior
from latflow.samplers import draw_proposals, log_weights
from latflow.statistics.weights import log_z

GEOMETRY = Geometry((4, 4))


@pytest.fixture(scope="module")
def stored():
    sampler = TorusU1Sampler(GEOMETRY, 1.0, jnp.float64)
    return jax.jit(jax.vmap(sampler.sample))(jax.random.split(jax.random.key(3), 4096))


def test_each_configuration_once_in_order_with_relative_weights(stored, tmp_path):
    prior, target = WilsonGauge(GEOMETRY, U1(), 1.0), WilsonGauge(GEOMETRY, U1(), 1.2)
    model = FlowModel(StoredPrior(stored, prior), Identity())
    path = tmp_path / "e.h5"
    draw_proposals(model, target, {}, path, jax.random.key(0), 4096, 1000, save_configurations=True)
    with EnsembleFile.open(path) as file:
        np.testing.assert_array_equal(file.read("configurations"), stored)
        weights = log_weights(file)
    energies = jax.vmap(prior)(stored)
    np.testing.assert_allclose(weights, -0.2 * np.asarray(energies), rtol=1e-10, atol=1e-10)
    value, error = log_z(weights)
    known = TorusU1(geometry=GEOMETRY, beta=1.2).log_z() - TorusU1(geometry=GEOMETRY, beta=1.0).log_z()
    assert abs(value - known) < 5 * error


def test_a_configuration_is_never_used_twice(stored, tmp_path):
    action = WilsonGauge(GEOMETRY, U1(), 1.0)
    model = FlowModel(StoredPrior(stored[:10], action), Identity())
    with pytest.raises(LatflowError, match="11 samples are wanted, but the prior's ensemble has 10"):
        draw_proposals(model, action, {}, tmp_path / "e.h5", jax.random.key(0), 11, 5)


def test_training_draws_at_random(stored):
    prior = StoredPrior(stored, WilsonGauge(GEOMETRY, U1(), 1.0))
    first, log_r = prior.draw(jax.random.key(0), 64)
    assert first.shape == (*stored.shape[1:], 64)
    np.testing.assert_allclose(log_r, -jax.vmap(prior.action, in_axes=-1)(first))
    assert np.unique(np.asarray(log_r)).size > 50


def test_an_ensemble_of_another_lattice_is_refused(stored):
    with pytest.raises(ValueError, match="shape"):
        StoredPrior(stored, WilsonGauge(Geometry((6, 6)), U1(), 1.0))
