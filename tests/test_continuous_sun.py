"""Continuous flows of SU(N): eigenvalues of the loops, the density against the Jacobian, gauge symmetry, exact reweighting."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts import gauge_transform

from latflow.actions import WilsonGauge
from latflow.exact import exact_values
from latflow.flows import ContinuousFlow, SUNLoopTerms
from latflow.groups import SUN
from latflow.lattice import Geometry
from latflow.models import FlowModel, HaarPrior
from latflow.statistics import ess_with_error, log_z

F64, C128 = jnp.float64, jnp.complex128


def flow(group: SUN, shape: tuple[int, ...], steps: int, strength: float = 0.2, chosen=None) -> ContinuousFlow:
    """Generic coefficients, all loops and time modes at work."""
    bijection = ContinuousFlow(SUNLoopTerms(Geometry(shape), group, chosen), steps=steps, modes=3, dtype=F64)
    noise = strength * jax.random.normal(jax.random.key(3), bijection.coefficients.shape, F64)
    return eqx.tree_at(lambda f: f.coefficients, bijection, noise)


def links(group: SUN, shape: tuple[int, ...], seed: int = 1):
    return group.haar(jax.random.key(seed), (len(shape), *shape), C128)


@pytest.mark.parametrize(("Nc", "shape"), [(2, (3, 4)), (3, (3, 3)), (4, (3, 3)), (2, (3, 3, 3))])
def test_every_term_is_an_eigenfunction_of_the_laplacian(Nc, shape):
    group, terms = SUN(Nc), SUNLoopTerms(Geometry(shape), SUN(Nc))
    U = links(group, shape)

    def values(y):
        return terms(group.move(group.from_coordinates(y), U))

    n = group.dimension * len(shape) * int(np.prod(shape))
    zero = jnp.zeros((group.dimension, *U.shape[2:]), F64)

    def curvature(direction):
        return jax.jvp(lambda y: jax.jvp(values, (y,), (direction,))[1], (zero,), (direction,))[1]

    basis = jnp.eye(n, dtype=F64).reshape(n, *zero.shape)
    batch = max(d for d in range(1, 91) if n % d == 0)  # a remainder would be a second program
    laplacian, value = jax.jit(lambda b: (jax.lax.map(curvature, b, batch_size=batch).sum(0), terms(U)))(basis)
    np.testing.assert_allclose(laplacian, -terms.eigenvalues * value, rtol=1e-9, atol=1e-8)
    assert np.all(np.abs(value) > 1e-3)


def test_terms_count_their_loops_on_cold_links():
    """With unit links every trace is N: the number of loops per site, counted by hand."""
    group, shape = SUN(3), (3, 4, 3, 3)
    terms = SUNLoopTerms(Geometry(shape), group)
    values = dict(zip(terms.names, terms(group.identity((4, *shape), C128)) / 108, strict=True))
    planar, bent = 4 * 3, 4 * 12
    assert {name: float(value) for name, value in values.items()} == pytest.approx(
        {
            "plaquette": 6 * 3,
            "adjoint": 6 * 8,
            "symmetric": 6 * 6,
            "rectangle": planar * 3,
            "chair": bent * 3,
            "bent": 4 * 4 * 3,
            **{f"planar_{kind}": planar * n for kind, n in (("adjoint", 8), ("symmetric", 12), ("antisymmetric", 6))},
            **{f"bent_{kind}": bent * n for kind, n in (("adjoint", 8), ("symmetric", 12), ("antisymmetric", 6))},
        }
    )


def test_density_is_the_jacobian_to_fifth_order_and_the_audit_sees_the_error():
    group, shape = SUN(3), (3, 3)
    U = links(group, shape)
    zero = jnp.zeros((group.dimension, *U.shape[2:]), F64)
    errors, audits = [], []
    for steps in (4, 8):
        f = flow(group, shape, steps, chosen=("plaquette", "rectangle", "planar_adjoint", "planar_antisymmetric"))

        def image(y, f=f):
            V, log_det = f.forward_and_log_det(group.move(group.from_coordinates(y), U))
            return V, (V, log_det)

        @jax.jit
        def run(y, f=f, image=image):
            tangents, (V, log_det) = jax.jacfwd(image, has_aux=True)(y)
            return tangents.reshape(*V.shape, -1), V, log_det, *f.inverse_and_log_det(V)

        tangents, V, log_det, back, back_log_det = run(zero)
        # d image = i (Y) V, so Y = -i d image V^dagger
        inverse = group.adjoint(V)[..., None]
        moved = group.coordinates(-1j * group.multiply(tangents, inverse)).reshape(zero.size, zero.size)
        errors.append(abs(float(log_det - jnp.linalg.slogdet(moved)[1])))
        audits.append(abs(float(log_det + back_log_det)))
        assert np.max(np.abs(back - U)) < 40 / steps**5
    assert errors[1] > 1e-11
    assert 16 < errors[0] / errors[1] < 64  # 32 for the fifth order
    assert all(audit > 0.5 * error for audit, error in zip(audits, errors, strict=True))


def test_gauge_and_translation_equivariance_and_unitarity():
    group, shape = SUN(2), (3, 4, 3)
    f, U = flow(group, shape, 2), links(group, shape)
    run = eqx.filter_jit(f.forward_and_log_det)
    V, log_det = run(U)
    assert float(group.reunitarise(V)[1]) < 1e-13
    omega = group.haar(jax.random.key(5), shape, C128)
    turned, same = run(gauge_transform(group, U, omega, len(shape)))
    np.testing.assert_allclose(turned, gauge_transform(group, V, omega, len(shape)), atol=1e-12)
    np.testing.assert_allclose(same, log_det, atol=1e-10)
    np.testing.assert_allclose(run(jnp.roll(U, 2, 4))[0], jnp.roll(V, 2, 4), atol=1e-12)


def test_a_batch_equals_its_configurations():
    group, shape = SUN(2), (3, 4)
    f = flow(group, shape, 3)
    x = jnp.stack([links(group, shape, seed) for seed in range(2)], -1)
    for one, many in ((f.forward_and_log_det, f.forward_batch), (f.inverse_and_log_det, f.inverse_batch)):
        y, log_det = eqx.filter_jit(many)(x)
        expected = eqx.filter_jit(one)(x[..., 1])
        np.testing.assert_allclose(y[..., 1], expected[0], atol=1e-12)
        np.testing.assert_allclose(log_det[1], expected[1], atol=1e-11)


def test_reweighting_gives_the_exact_partition_function():
    """E_q[w] = Z for any coefficients: plaquette drift towards beta = 1.2 of SU(2), the others generic, 3x3."""
    geometry, group, beta = Geometry((3, 3)), SUN(2), 1.2
    f = flow(group, (3, 3), 4, 0.02)
    drift = beta / group.Nc / f.terms.eigenvalues[0] / f.terms.scales[0]
    f = eqx.tree_at(lambda f: f.coefficients, f, f.coefficients.at[0, 0].add(drift))
    y, log_q = eqx.filter_jit(lambda key: FlowModel(HaarPrior(geometry, group, C128), f).draw(key, 8192))(jax.random.key(2))
    log_weight = -jax.jit(jax.vmap(WilsonGauge(geometry, group, beta), in_axes=-1))(y) - log_q
    assert ess_with_error(log_weight)[0] > 0.5
    value, error = log_z(log_weight)
    assert abs(value - exact_values(group, geometry, (), beta=beta)["log_z"]) < 5 * error


@pytest.mark.parametrize(("chosen", "message"), [(("plaquete",), "no loops"), ((), "at least one")])
def test_wrong_choices_are_refused(chosen, message):
    with pytest.raises(ValueError, match=message):
        SUNLoopTerms(Geometry((3, 3)), SUN(3), chosen)
