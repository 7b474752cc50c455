"""Continuous flows: eigenvalues of the loops, the density against the Jacobian, the order of the integrator, and the audit."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts import gauge_transform

from latflow.actions import WilsonGauge
from latflow.errors import LatflowError
from latflow.exact import exact_values
from latflow.flows import Chain, ContinuousFlow, Identity, Scan, U1LoopTerms, needs_audit, refined
from latflow.groups import U1
from latflow.lattice import Geometry
from latflow.models import FlowModel, HaarPrior
from latflow.samplers import draw_proposals
from latflow.statistics import ess_with_error, log_z

F64 = jnp.float64


def flow(shape: tuple[int, ...], steps: int, strength: float = 0.08, seed: int = 3) -> ContinuousFlow:
    """Generic coefficients, all loops and time modes at work."""
    bijection = ContinuousFlow(U1LoopTerms(Geometry(shape)), steps=steps, modes=3, dtype=F64)
    noise = strength * jax.random.normal(jax.random.key(seed), bijection.coefficients.shape, F64)
    return eqx.tree_at(lambda f: f.coefficients, bijection, noise)


def angles(shape: tuple[int, ...], seed: int = 1):
    return U1().haar(jax.random.key(seed), (len(shape), *shape), F64)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 3), (3, 3, 3, 4)])
def test_every_term_is_an_eigenfunction_of_the_laplacian(shape):
    terms, theta = U1LoopTerms(Geometry(shape)), angles(shape)
    gradient = jax.jacrev(terms)

    def curvature(direction):
        return jax.jvp(gradient, (theta,), (direction.reshape(theta.shape),))[1].reshape(len(terms.names), -1) @ direction

    laplacian, value = jax.jit(lambda basis: (jax.lax.map(curvature, basis).sum(0), terms(theta)))(jnp.eye(theta.size))
    np.testing.assert_allclose(laplacian, -terms.eigenvalues * value, rtol=1e-10, atol=1e-9)
    assert np.all(np.abs(value) > 1e-3)


def test_terms_count_their_loops_on_cold_links():
    """At zero angles every cosine is one: the number of loops per site, counted by hand."""
    values = dict(zip((t := U1LoopTerms(Geometry((3, 4, 3, 3)))).names, t(jnp.zeros((4, 3, 4, 3, 3))), strict=True))
    per_site = {name: float(value) / 108 for name, value in values.items()}
    assert per_site == pytest.approx(
        {
            "plaquette": 6,
            "double": 6,
            "triple": 6,
            "rectangle": 4 * 3,
            "twisted_rectangle": 4 * 3,
            "chair": 4 * 12,
            "twisted_chair": 4 * 12,
            "three": 4 * 6 * 5 * 4 / 2,
            "two_to_one": 4 * 6 * 5,
        }
    )


def test_density_is_the_jacobian_to_fifth_order_and_the_audit_sees_the_error():
    shape = (3, 3)
    theta = angles(shape)
    errors, audits = [], []
    for steps in (8, 16):
        f = flow(shape, steps, 0.2)

        def image(x, f=f):
            y, log_det = f.forward_and_log_det(x)
            return y, (y, log_det)

        @jax.jit
        def run(x, f=f, image=image):
            jacobian, (y, log_det) = jax.jacfwd(image, has_aux=True)(x)
            return jacobian.reshape(x.size, x.size), log_det, *f.inverse_and_log_det(y)

        jacobian, log_det, back, back_log_det = run(theta)
        errors.append(abs(float(log_det - jnp.linalg.slogdet(jacobian)[1])))
        audits.append(abs(float(log_det + back_log_det)))
        assert np.max(np.abs(back - theta)) < 40 / steps**5
    assert errors[1] > 1e-11
    assert 20 < errors[0] / errors[1] < 50  # 32 for the fifth order
    assert all(audit > 0.5 * error for audit, error in zip(audits, errors, strict=True))


def test_untrained_flow_is_the_identity():
    f = ContinuousFlow(U1LoopTerms(Geometry((3, 4))), steps=2, dtype=F64)
    y, log_det = f.forward_and_log_det(angles((3, 4)))
    np.testing.assert_array_equal(y, angles((3, 4)))
    assert log_det == 0


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 3)])
def test_gauge_and_translation_equivariance(shape):
    f, theta = flow(shape, 4), angles(shape)
    run = eqx.filter_jit(f.forward_and_log_det)
    y, log_det = run(theta)
    omega = U1().haar(jax.random.key(5), shape, F64)
    turned, same = run(gauge_transform(U1(), theta, omega, len(shape)))
    np.testing.assert_allclose(turned, gauge_transform(U1(), y, omega, len(shape)), atol=1e-12)
    np.testing.assert_allclose(same, log_det, atol=1e-11)
    np.testing.assert_allclose(run(jnp.roll(theta, 2, 2))[0], jnp.roll(y, 2, 2), atol=1e-12)


def test_batches_equal_loops():
    f = flow((3, 4), 4)
    x = jnp.stack([angles((3, 4), seed) for seed in range(3)], -1)
    for one, many in ((f.forward_and_log_det, f.forward_batch), (f.inverse_and_log_det, f.inverse_batch)):
        y, log_det = eqx.filter_jit(many)(x)
        single = eqx.filter_jit(one)
        for i in range(3):
            expected = single(x[..., i])
            np.testing.assert_allclose(y[..., i], expected[0], atol=1e-12)
            np.testing.assert_allclose(log_det[i], expected[1], atol=1e-11)


def test_the_flow_follows_the_same_equation_on_every_volume():
    """A configuration repeated in space stays so, and its log det doubles."""
    small, large = flow((3, 3), 4), flow((3, 6), 4)
    theta = angles((3, 3))
    y, log_det = eqx.filter_jit(small.forward_and_log_det)(theta)
    y2, log_det2 = eqx.filter_jit(large.forward_and_log_det)(jnp.concatenate([theta, theta], 2))
    np.testing.assert_allclose(y2, jnp.concatenate([y, y], 2), atol=1e-12)
    np.testing.assert_allclose(log_det2, 2 * log_det, rtol=1e-10)


def test_reweighting_gives_the_exact_partition_function():
    """E_q[w] = Z for any coefficients: plaquette drift towards beta = 0.8 plus generic others, 3x4."""
    geometry, beta = Geometry((3, 4)), 0.8
    f = flow((3, 4), 6, 0.02)
    f = eqx.tree_at(lambda f: f.coefficients, f, f.coefficients.at[0, 0].add(beta / 4))
    action = WilsonGauge(geometry, U1(), beta)
    y, log_q = jax.jit(lambda key: FlowModel(HaarPrior(geometry, U1(), F64), f).draw(key, 16384))(jax.random.key(2))
    log_weight = -jax.vmap(action, in_axes=-1)(y) - log_q
    assert ess_with_error(log_weight)[0] > 0.5
    value, error = log_z(log_weight)
    assert abs(value - exact_values(U1(), geometry, (), beta=beta)["log_z"]) < 5 * error


def test_audit_is_asked_of_every_continuous_part():
    f = flow((3, 4), 2)
    assert needs_audit(f) and needs_audit(Chain([Identity(), f])) and needs_audit(Scan([f, f]))
    assert not needs_audit(Chain([Identity(), Identity()]))


def test_sampling_refuses_a_crude_integration_unless_forced(tmp_path):
    geometry = Geometry((4, 4))
    model = FlowModel(HaarPrior(geometry, U1(), F64), flow((4, 4), 1, 0.2))
    action = WilsonGauge(geometry, U1(), 1.0)
    path, key = tmp_path / "e.h5", jax.random.key(0)
    with pytest.raises(LatflowError, match=r"log q .* differ by .* nats"):
        draw_proposals(model, action, {}, path, key, 64, 32, max_audit=1e-2)
    assert draw_proposals(model, action, {}, path, key, 64, 32, max_audit=None).num_samples == 64


@pytest.mark.parametrize("shape", [(2, 4), (4,), (4, 4, 4, 2)])
def test_lattices_on_which_loops_degenerate_are_refused(shape):
    with pytest.raises(ValueError, match="extents of at least 3"):
        U1LoopTerms(Geometry(shape))


def test_refinement_changes_the_steps_and_nothing_else():
    f = flow((3, 4), 4)
    fine = refined(Chain([Identity(), f]), 8).bijections[1]
    assert fine.steps == 32 and fine.terms == f.terms
    np.testing.assert_array_equal(fine.coefficients, f.coefficients)
