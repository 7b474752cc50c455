"""The free scalar field: closed forms against dense linear algebra, and the FFT sampler against the closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latflow.actions import FreeScalar
from latflow.exact import FreeField, exact_values
from latflow.groups import RealLine
from latflow.lattice import Geometry

GEOMETRY, M2 = Geometry((6, 5)), 0.4


def test_closed_forms_against_dense_algebra():
    V = GEOMETRY.volume
    hessian = np.asarray(jax.hessian(lambda flat: FreeScalar(GEOMETRY, M2)(flat.reshape(6, 5)))(jnp.zeros(V)))
    covariance = np.linalg.inv(hessian)
    free = FreeField(GEOMETRY, M2)
    sign, log_det = np.linalg.slogdet(hessian / (2 * np.pi))
    assert sign == 1 and float(free.log_z()) == pytest.approx(-log_det / 2, rel=1e-12)
    assert float(free.phi2()) == pytest.approx(np.diag(covariance).mean(), rel=1e-12)
    expected = covariance.reshape(6, 5, 6, 5)[:, :, 0, 0].sum(1)
    assert np.allclose(np.asarray(free.two_point()), expected, atol=1e-13)
    assert float(free.susceptibility()) == pytest.approx(covariance.sum() / V, rel=1e-12)
    phi = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)))
    flat = np.asarray(phi).ravel()
    assert float(free.log_density(phi)) == pytest.approx(-flat @ hessian @ flat / 2 + log_det / 2, rel=1e-12)


@pytest.mark.parametrize("shape", [(6, 5), (7,), (4, 3, 2)])
def test_sampler(shape):
    free = FreeField(Geometry(shape), M2)
    keys = jax.random.split(jax.random.key(8), 20000)
    phi, log_density = jax.jit(jax.vmap(free.sample_and_log_density, out_axes=(-1, 0)))(keys)
    phi = np.moveaxis(np.asarray(phi), -1, 0)
    n, V = len(keys), free.geometry.volume
    action = -np.asarray(log_density) - float(free.log_z())
    # S is chi^2 / 2 with V degrees of freedom
    assert abs(action.mean() - V / 2) < 5 * np.sqrt(V / 2 / n)
    assert abs(action.var() - V / 2) < 5 * (V / 2) * np.sqrt((2 + 12 / V) / n)
    covariance = np.einsum("n...,n->...", phi, phi.reshape(n, -1)[:, 0]) / n
    spectrum_mean = phi.mean(tuple(range(2, phi.ndim))) if phi.ndim > 2 else phi
    two_point = [np.mean(spectrum_mean[:, 0] * spectrum_mean[:, t]) * V / shape[0] for t in range(shape[0])]
    scale = float(free.two_point()[0])
    assert np.allclose(two_point, np.asarray(free.two_point()), atol=5 * scale * np.sqrt(2 / n))
    assert abs(covariance.ravel()[0] - float(free.phi2())) < 5 * float(free.phi2()) * np.sqrt(2 / n)


def test_single_precision_and_dtype():
    free = FreeField(Geometry((16, 16)), 0.3, jnp.float32)
    phi, log_density = jax.jit(free.sample_and_log_density)(jax.random.key(0))
    assert phi.dtype == jnp.float32 and log_density.dtype == jnp.float64
    double = FreeField(Geometry((16, 16)), 0.3).log_density(phi.astype(jnp.float64))
    assert float(log_density) == pytest.approx(float(double), rel=1e-5)


def test_the_mass_can_be_trained():
    """The cross-entropy of samples at m2 is stationary at m2, and draws are differentiable in it."""
    phi = jax.vmap(FreeField(GEOMETRY, M2).sample)(jax.random.split(jax.random.key(1), 512))

    @jax.jit
    def slope(m2):
        return jax.vmap(jax.grad(lambda m2, phi: FreeField(GEOMETRY, m2).log_density(phi)), (None, 0))(m2, phi)

    scores = np.asarray(slope(jnp.asarray(M2)))
    assert abs(scores.mean()) < 5 * scores.std() / np.sqrt(512)
    assert np.asarray(slope(jnp.asarray(2 * M2))).mean() < -5 * scores.std() / np.sqrt(512)
    gradient = jax.grad(lambda m2: jnp.sum(FreeField(GEOMETRY, m2).sample(jax.random.key(0)) ** 2))(jnp.asarray(M2))
    assert float(gradient) < 0


@pytest.mark.parametrize("m2", [0.0, -1.0, float("nan")])
def test_masses_without_a_normalisable_density_are_refused(m2):
    with pytest.raises(ValueError, match="positive mass"):
        FreeField(GEOMETRY, m2)


def test_exact_values_by_name():
    free, values = FreeField(GEOMETRY, M2), exact_values(RealLine(), GEOMETRY, m2=M2)
    assert values["phi2"] == float(free.phi2()) and values["log_z"] == float(free.log_z())
    assert values["phi4"] == pytest.approx(3 * values["phi2"] ** 2)
    assert np.array_equal(values["two_point"], np.asarray(free.two_point()))
    assert exact_values(RealLine(), GEOMETRY, m2=-4.0, lam=6.0) == {"magnetisation": 0.0}
