"""Derivatives through solves, spectra and log determinants, against dense linear algebra."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fermion_cases import quick_jit
from solver_cases import N, hermitian, wilson

from latflow.solvers import (
    condition_number,
    extreme_eigenvalues,
    implicit_solve,
    random_probes,
    stochastic_log_det,
    stochastic_log_det_surrogate,
)

# Derivatives


def loss_of(x):
    weights = jnp.arange(1.0, 1 + x.size).reshape(x.shape)
    return jnp.sum(weights * jnp.abs(x) ** 2) + jnp.sum(jnp.real((0.3 + 0.7j) * x**2 * weights[::-1]))


def matrix_of_real(p):
    M0, b, other = hermitian(9, 0.1)
    A = jnp.outer(b, b.conj()), jnp.outer(other, b.conj()) + jnp.outer(b, other.conj())
    return M0 + p[0] ** 2 * A[0] + 0.1 * p[1] * A[1] + p[2] ** 2 * jnp.eye(N)


def matrix_of_complex(p):
    M0 = hermitian(10, 0.1)[0]
    B = jnp.outer(p["u"], jnp.conj(p["v"][0]))
    return M0 + B @ B.conj().T + jnp.real(p["c"] * jnp.exp(1j * p["c"])) ** 2 * jnp.eye(N)


def complex_parameters():
    _, u, v = hermitian(11, 0.1)
    return {"u": 0.3 * u, "v": (0.2 * v,), "c": jnp.asarray(0.4 - 0.2j)}


@pytest.mark.parametrize(
    ("matrix_of", "parameters"), [(matrix_of_real, jnp.asarray([0.1, -0.2, 0.5])), (matrix_of_complex, complex_parameters())]
)
def test_implicit_gradients_equal_those_through_a_dense_solve(matrix_of, parameters):
    _, b, scale = hermitian(12, 0.1)

    def implicit(p, b, scale):
        # `scale` reaches the operator by closure
        x, info = implicit_solve(lambda p, v: matrix_of(p) @ v + jnp.abs(scale) ** 2 * v, p, b, tol=1e-12)
        return loss_of(x), info

    def direct(p, b, scale):
        return loss_of(jnp.linalg.solve(matrix_of(p) + jnp.diag(jnp.abs(scale) ** 2).astype(complex), b))

    gradient = quick_jit(jax.value_and_grad(implicit, (0, 1, 2), has_aux=True))
    (value, info), got = gradient(parameters, b, scale)
    expected_value, expected = quick_jit(jax.value_and_grad(direct, (0, 1, 2)))(parameters, b, scale)
    assert info.converged
    np.testing.assert_allclose(value, expected_value, rtol=1e-9)
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-8, atol=1e-9), got, expected)
    assert all(np.any(g != 0) and np.all(np.isfinite(g)) for g in jax.tree.leaves(got))
    batch = jnp.stack([b, 2j * b])
    batched = quick_jit(jax.vmap(jax.grad(implicit, (0, 1, 2), has_aux=True), (None, 0, None)))(parameters, batch, scale)[0]
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g[0], e, rtol=1e-8, atol=1e-9), batched, expected)


def test_implicit_gradient_of_wilson_against_finite_differences():
    w = wilson()

    @quick_jit
    @jax.value_and_grad
    def value(theta):
        x, _ = implicit_solve(w.mv, theta, w.source, tol=1e-12)
        return jnp.real(jnp.vdot(w.source, x)) + jnp.abs(x[0, 0, 0, 0]) ** 2

    direction = jax.random.normal(jax.random.key(3), w.theta.shape, jnp.float64)
    gradient = value(w.theta)[1]
    h = 1e-4
    slope = (value(w.theta + h * direction)[0] - value(w.theta - h * direction)[0]) / (2 * h)
    np.testing.assert_allclose(jnp.sum(gradient * direction), slope, rtol=1e-6)


def test_a_failed_backward_solve_is_nan_and_a_start_has_no_gradient():
    M, b, _ = hermitian(9, 1e-3)
    x = jnp.asarray(np.linalg.solve(M, b))

    @quick_jit
    def run(M, b, x0):
        def value(M, b, x0):
            y, info = implicit_solve(lambda M, v: M @ v, M, b, tol=1e-8, max_iterations=3, x0=x0)
            return loss_of(y), info

        return jax.value_and_grad(value, (0, 1, 2), has_aux=True)(M, b, x0)

    (value, info), gradient = run(M, b, x)
    assert info.converged and np.isfinite(value)
    assert np.all(np.isnan(gradient[0])) and np.all(np.isnan(gradient[1])) and not np.any(gradient[2])


# Spectra


@functools.cache
def extremes(num_steps, inverse):
    settings = {"num_steps": num_steps, "inverse": inverse, "tol": 1e-9, "max_iterations": 2000}
    return quick_jit(lambda M, v: extreme_eigenvalues(lambda x: M @ x, v, **settings))


def test_extreme_eigenvalues_lie_within_their_bounds():
    M, v, _ = hermitian(13, 1e-2)
    spectrum = np.linalg.eigvalsh(M)
    rough = extremes(8, False)(M, v)
    assert rough.converged and rough.largest_bound > 1e-8
    for estimate, bound in ((rough.smallest, rough.smallest_bound), (rough.largest, rough.largest_bound)):
        assert np.min(np.abs(spectrum - estimate)) <= bound + 1e-14
    assert spectrum[0] <= rough.smallest and rough.largest <= spectrum[-1] + 1e-14
    for steps in (N, N + 5):  # more steps than dimensions
        exact = extremes(steps, False)(M, v)
        np.testing.assert_allclose([exact.smallest, exact.largest], spectrum[[0, -1]], rtol=1e-10)
        assert exact.smallest_bound < 1e-10 and exact.largest_bound < 1e-10
    identity = extremes(8, False)(3 * jnp.eye(N, dtype=complex), v)  # a space of one dimension
    np.testing.assert_allclose([identity.smallest, identity.largest], 3, rtol=1e-12)


def test_inverse_iteration_finds_small_eigenvalues():
    M, v, _ = hermitian(14, 1e-6)
    rough, fine = extremes(8, False)(M, v), extremes(8, True)(M, v)
    assert rough.smallest > 1e-5 and fine.converged
    np.testing.assert_allclose(fine.smallest, 1e-6, rtol=1e-3)
    assert abs(fine.smallest - 1e-6) <= fine.smallest_bound < 1e-12
    kappa = quick_jit(lambda M, v: condition_number(lambda x: M @ x, v, num_steps=12, tol=1e-9, max_iterations=2000))
    np.testing.assert_allclose(kappa(M, v), 1e6, rtol=1e-3)
    few = condition_number(lambda x: M @ x, v, num_steps=3, max_iterations=2)
    assert np.isnan(few)
    assert np.isnan(kappa(-M, v)) and np.isnan(kappa(M, v.at[0].set(jnp.nan)))
    assert not extremes(8, False)(M.at[0, 0].set(jnp.nan), v).converged
    assert not extremes(8, True)(M - 0.01 * jnp.eye(N), v).converged


def test_lanczos_of_wilson_in_a_batch():
    w = wilson()
    spectrum = np.linalg.eigvalsh(w.matrix)
    starts = jnp.stack([w.source, jnp.roll(w.source, 1, -1)], -1)
    run = jax.vmap(lambda v: extreme_eigenvalues(lambda x: w.mv(w.theta, x), v, num_steps=16), -1, 0)
    ends = quick_jit(run)(starts)
    np.testing.assert_allclose(ends.smallest, spectrum[0], rtol=1e-8)
    np.testing.assert_allclose(ends.largest, spectrum[-1], rtol=1e-8)


# Determinants


def test_unit_probes_give_the_determinant_and_its_gradient():
    parameters = complex_parameters()
    probes = jnp.eye(N, dtype=complex)

    def mv(p, v):
        return matrix_of_complex(p) @ v

    @quick_jit
    def surrogate(p):
        return jax.value_and_grad(lambda p: stochastic_log_det_surrogate(mv, p, probes, num_steps=N, tol=1e-12), has_aux=True)(
            p
        )

    (value, info), gradient = surrogate(parameters)
    exact, expected = jax.value_and_grad(lambda p: jnp.linalg.slogdet(matrix_of_complex(p))[1])(parameters)
    assert np.all(info.converged) and info.converged.shape == (N,) and value.dtype == jnp.float64
    np.testing.assert_allclose(N * value, exact, rtol=1e-10)
    jax.tree.map(lambda g, e: np.testing.assert_allclose(N * g, e, rtol=1e-8, atol=1e-9), gradient, expected)


def test_random_probes_estimate_the_determinant_of_wilson():
    w = wilson()
    exact = np.linalg.slogdet(w.matrix)[1]
    estimate = quick_jit(lambda z: stochastic_log_det(lambda v: w.mv(w.theta, v), z, num_steps=12))
    values, vectors = np.linalg.eigh(w.matrix)
    logarithm = vectors * np.log(values) @ vectors.conj().T
    off_diagonal = logarithm - np.diag(np.diag(logarithm))
    variances = {"z2": 2 * np.sum(np.real(off_diagonal) ** 2), "gaussian": np.sum(np.abs(logarithm) ** 2)}
    for kind in ("z2", "gaussian"):
        probes = random_probes(jax.random.key(4), w.source, 200, kind)
        assert probes.shape == (200, *w.source.shape) and probes.dtype == w.source.dtype
        result = estimate(probes)
        assert result.samples.shape == (200,)
        np.testing.assert_allclose(result.mean, np.mean(result.samples), rtol=1e-12)
        np.testing.assert_allclose(result.error, np.std(result.samples, ddof=1) / 200**0.5, rtol=1e-12)
        assert abs(result.mean - exact) < 5 * result.error
        np.testing.assert_allclose(200 * result.error**2, variances[kind], rtol=0.6)
    gradient = quick_jit(jax.grad(lambda t, z: stochastic_log_det_surrogate(w.mv, t, z, num_steps=2, tol=1e-10), has_aux=True))
    unit = jnp.eye(w.source.size, dtype=complex).reshape(-1, *w.source.shape)
    got = w.source.size * gradient(w.theta, unit)[0]
    direction = jax.random.normal(jax.random.key(5), w.theta.shape, jnp.float64)

    @quick_jit
    def log_det(theta):
        columns = jax.vmap(lambda v: w.mv(theta, v))(unit).reshape(len(unit), -1)
        return jnp.linalg.slogdet(columns)[1]

    slope = (log_det(w.theta + 1e-4 * direction) - log_det(w.theta - 1e-4 * direction)) / 2e-4
    np.testing.assert_allclose(jnp.sum(got * direction), slope, rtol=1e-6)


def test_probes_have_unit_covariance():
    like = {"a": jax.ShapeDtypeStruct((2,), jnp.complex64), "b": jax.ShapeDtypeStruct((1,), jnp.float64)}
    for kind in ("z2", "gaussian"):
        probes = random_probes(jax.random.key(6), like, 4000, kind)
        assert probes["a"].dtype == jnp.complex64 and probes["b"].dtype == jnp.float64
        z = np.concatenate([probes["a"], probes["b"]], 1)
        np.testing.assert_allclose(z.T @ z.conj() / 4000, np.eye(3), atol=5 * 2**0.5 / 4000**0.5)
        assert kind == "gaussian" or np.all(np.abs(z) == 1)


def test_determinants_of_bad_operators_are_nan():
    M, b, _ = hermitian(0, 1e-3)
    run = quick_jit(lambda M, z: stochastic_log_det(lambda v: M @ v, z, num_steps=N + 3))
    probes = jnp.stack([b, 0 * b])
    good = run(M, probes)
    logarithm = np.linalg.eigh(M)
    expected = np.sum(np.abs(logarithm[1].conj().T @ np.asarray(b)) ** 2 * np.log(logarithm[0]))
    np.testing.assert_allclose(good.samples, [expected, 0.0], rtol=1e-9)
    assert np.isnan(run(M - 0.1 * jnp.eye(N), probes).mean)
    assert np.isnan(run(M, probes.at[0, 0].set(jnp.nan)).mean) and np.isnan(run(M.at[0, 0].set(jnp.nan), probes).samples[0])
    assert np.isnan(stochastic_log_det(lambda v: M @ v, b[None], num_steps=2).error)
