"""Linear solvers against dense linear algebra, and what they do with bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fermion_cases import quick_jit
from solver_cases import TOL, N, hermitian, residual_of, solver, times, wilson

from latflow.errors import LatflowError
from latflow.solvers import (
    SolveInfo,
    SolverFailure,
    cg,
    forecast,
    lanczos,
    mixed_precision_cg,
    multishift_cg,
    random_probes,
    require_converged,
)
from latflow.solvers.vectors import dot, inner

# Conjugate gradients


@pytest.mark.parametrize("real", [False, True])
def test_cg_solves_and_reports_the_true_residual(real):
    M, b, other = hermitian(0, 1e-3, real=real)
    x, info = solver()(M, b)
    assert info.converged and x.dtype == b.dtype and info.iterations.dtype == jnp.int32 and info.residual.dtype == jnp.float64
    assert 10 < info.iterations < 60 and info.residual <= TOL
    np.testing.assert_allclose(info.residual, residual_of(M, x, b), rtol=1e-4)
    np.testing.assert_allclose(x, np.linalg.solve(M, b), rtol=0, atol=1e-6)
    again, info = solver()(M, b, x)
    assert info.iterations == 0 and info.converged
    np.testing.assert_array_equal(again, x)
    _, info = solver()(M, b, x + 1e-6 * other)
    assert info.converged and 0 < info.iterations < 40
    for guess in (None, other):
        x, info = solver()(M, 0 * b, guess)
        assert info.converged and info.residual == 0 and info.iterations == 0 and not np.any(x)


def test_cg_of_a_pytree_with_real_and_complex_leaves():
    M, b, _ = hermitian(1, 1e-2)
    R, c, _ = hermitian(2, 1e-1, real=True)
    x, info = quick_jit(lambda b: cg(lambda v: {"a": M @ v["a"], "b": (R @ v["b"][0],)}, b, tol=TOL))({"a": b, "b": (c,)})
    assert info.converged and x["b"][0].dtype == jnp.float64
    np.testing.assert_allclose(x["a"], np.linalg.solve(M, b), rtol=0, atol=1e-7)
    np.testing.assert_allclose(x["b"][0], np.linalg.solve(R, c), rtol=0, atol=1e-7)


def test_cg_of_the_wilson_operator():
    w = wilson()
    x, info = quick_jit(lambda theta, b: cg(lambda v: w.mv(theta, v), b, tol=TOL))(w.theta, w.source)
    assert info.converged and info.iterations <= 20
    np.testing.assert_allclose(x.ravel(), np.linalg.solve(w.matrix, w.source.ravel()), rtol=0, atol=1e-8)


def test_members_of_a_batch_stop_for_themselves():
    hard, b, other = hermitian(3, 1e-4)
    easy = hermitian(4, 0.5)[0]
    matrices = jnp.stack([hard, easy, hard, easy, -easy], -1)
    sources = jnp.stack([b, other, 0 * b, b.at[3].set(jnp.nan), b], -1)
    x, info = quick_jit(jax.vmap(lambda M, b: cg(lambda v: M @ v, b, tol=TOL), -1, (-1, 0)))(matrices, sources)
    assert info.converged.tolist() == [True, True, True, False, False]
    for k in range(5):
        alone, single = solver()(matrices[..., k], sources[:, k])
        # rounding of the batched product may move the end of a hard solve
        assert abs(info.iterations[k] - single.iterations) <= (5 if k == 0 else 0) and info.converged[k] == single.converged
        np.testing.assert_allclose(x[:, k], alone, rtol=0, atol=1e-6 if k == 0 else 1e-12)
    assert info.iterations[1] < info.iterations[0] / 2


def test_single_precision_ends_where_it_can_go_no_further():
    M, b, _ = hermitian(5, 1e-3)
    M, b = M.astype(jnp.complex64), b.astype(jnp.complex64)
    x, info = solver(1e-3)(M, b)
    assert info.converged and x.dtype == jnp.complex64 and info.residual.dtype == jnp.float64
    np.testing.assert_allclose(info.residual, residual_of(M, x, b), rtol=0.1)
    x, info = solver(1e-9)(M, b)
    assert not info.converged and 1e-9 < info.residual < 1e-3 and info.iterations < 500
    np.testing.assert_allclose(info.residual, residual_of(M, x, b), rtol=0.5)


def test_inner_products_of_single_precision_are_of_double_precision():
    b = jnp.concatenate([jnp.full((1,), 2.0**13, jnp.float32), jnp.ones((7,), jnp.float32)])
    assert inner(b, b) == 2**26 + 7 and inner(1j * b, 1j * b) == 2**26 + 7  # float32 resolves 8 there
    assert dot(b + 0j, 1j * b) == 1j * (2**26 + 7) and dot({"r": b, "c": 1j * b}, {"r": b, "c": b}) == 2**26 + 7


def test_what_is_not_finite_ends_a_loop_at_once():
    M, b, other = hermitian(0, 1e-3)
    bad = jnp.nan
    for arguments in ((M, b.at[0].set(bad)), (M, b.at[0].set(jnp.inf)), (M.at[1, 1].set(bad), b), (M, b, bad * other)):
        _, info = solver()(*arguments)
        assert not info.converged and np.isnan(info.residual) and info.iterations <= 1
        with pytest.raises(SolverFailure, match="not finite"):
            require_converged(info, "a solve")


def test_operators_that_are_not_positive_do_not_converge():
    M, b, _ = hermitian(0, 1e-3)
    spectrum, vectors = np.linalg.eigh(M)
    x, info = solver()(-M, b)
    assert not info.converged and info.iterations == 1 and not np.any(x) and info.residual == 1
    indefinite = M - 0.03 * jnp.eye(N)
    x, info = solver()(indefinite, b)
    assert info.iterations < 1000
    np.testing.assert_allclose(info.residual, residual_of(indefinite, x, b), rtol=1e-3)
    assert info.converged == (info.residual <= TOL)
    singular = jnp.asarray((vectors[:, 1:] * spectrum[1:]) @ vectors[:, 1:].conj().T)
    _, info = solver()(singular, b)  # b is not in the range
    assert not info.converged
    _, info = solver()(jnp.zeros_like(M), b)
    assert not info.converged and info.iterations == 1 and info.residual == 1


def test_too_few_iterations_are_reported():
    M, b, _ = hermitian(0, 1e-3)
    x, info = solver(TOL, 5)(M, b)
    assert not info.converged and info.iterations == 5
    np.testing.assert_allclose(info.residual, residual_of(M, x, b), rtol=1e-10)
    with pytest.raises(LatflowError, match=r"the pion .* not converge: relative residual .* after 5 iterations: allow more"):
        require_converged(info, "the pion propagator")
    _, info = solver(TOL, 0)(M, b)
    assert not info.converged and info.iterations == 0 and info.residual == 1
    batch = SolveInfo(jnp.asarray([3, 9, 9]), jnp.asarray([1e-11, 1e-3, jnp.nan]), jnp.asarray([True, False, False]))
    with pytest.raises(SolverFailure, match="forces did not converge in 2 of 3 solves: the residual is not finite"):
        require_converged(batch, "forces")
    require_converged(SolveInfo(*(a[0] for a in batch)), "a good one")
    with pytest.raises(ValueError, match="concrete"):
        quick_jit(lambda i: require_converged(i, "x"))(batch)


def test_wrong_settings_and_operators_are_refused():
    _, b, _ = hermitian(0, 1e-3)
    for tol in (0.0, -1e-3, 1.0, float("nan")):
        with pytest.raises(ValueError, match="tolerance"):
            cg(lambda v: v, b, tol=tol)
    with pytest.raises(ValueError, match="negative"):
        cg(lambda v: v, b, tol=TOL, max_iterations=-1)
    for bad in (lambda v: v.astype(jnp.complex64), lambda v: v[:3], lambda v: (v,)):
        with pytest.raises(ValueError, match="must return"):
            cg(bad, b, tol=TOL)
    with pytest.raises(ValueError, match="shifts"):
        multishift_cg(lambda v: v, b, jnp.asarray([0.0, -1.0]), tol=TOL)
    with pytest.raises(ValueError, match="double precision"):
        mixed_precision_cg(lambda v: v, lambda v: v, b.astype(jnp.complex64), tol=TOL)
    with pytest.raises(ValueError, match="delta"):
        mixed_precision_cg(lambda v: v, lambda v: v, b, tol=TOL, delta=1.0)
    with pytest.raises(ValueError, match="at least one step"):
        lanczos(lambda v: v, b, num_steps=0)
    with pytest.raises(ValueError, match="z2 or gaussian"):
        random_probes(jax.random.key(0), b, 2, "z3")


# Many shifts

SHIFTS = jnp.asarray([0.3, 0.01, 10.0, 0.01, 0.0])


@functools.cache
def multishift(tol=TOL, max_iterations=1000):
    return quick_jit(lambda M, b, s: multishift_cg(functools.partial(times, M), b, s, tol=tol, max_iterations=max_iterations))


def test_multishift_solves_every_shift():
    M, b, _ = hermitian(6, 1e-3)
    x, info = multishift()(M, b, SHIFTS)
    assert x.shape == (5, N) and np.all(info.converged) and info.iterations.shape == (5,)
    for k, shift in enumerate(np.asarray(SHIFTS)):
        shifted = np.asarray(M) + shift * np.eye(N)
        np.testing.assert_allclose(x[k], np.linalg.solve(shifted, b), rtol=0, atol=1e-6)
        np.testing.assert_allclose(info.residual[k], residual_of(shifted, x[k], b), rtol=1e-3, atol=1e-14)
    # one Krylov space: the lowest shift costs what it costs alone, larger ones less
    assert info.iterations[4] == solver()(M, b)[1].iterations
    assert info.iterations[2] < info.iterations[0] < info.iterations[1] == info.iterations[3] < info.iterations[4]
    positive, _ = multishift()(M, b, SHIFTS + 0.5)  # the lowest shift is not zero
    np.testing.assert_allclose(positive[4], np.linalg.solve(np.asarray(M) + 0.5 * np.eye(N), b), rtol=0, atol=1e-8)


def test_multishift_of_bad_input():
    M, b, _ = hermitian(6, 1e-3)
    x, info = multishift(TOL, 8)(M, b, SHIFTS)
    assert info.converged.tolist() == [False, False, True, False, False] and np.all(info.iterations <= 8)
    np.testing.assert_allclose(info.residual[4], residual_of(M, x[4], b), rtol=1e-8)
    x, info = multishift()(M, 0 * b, SHIFTS)
    assert np.all(info.converged) and not np.any(x)
    for M_bad, b_bad in ((M, b * jnp.nan), (M.at[0, 0].set(jnp.nan), b), (-20 * M, b)):
        _, info = multishift()(M_bad, b_bad, SHIFTS)
        assert not np.any(info.converged[:2]) and np.all(info.iterations <= 60)


def test_multishift_in_batches_and_for_wilson():
    w = wilson()
    sources = jnp.stack([w.source, 0 * w.source, 1j * w.source], -1)
    run = jax.vmap(lambda b: multishift_cg(lambda v: w.mv(w.theta, v), b, SHIFTS, tol=TOL), -1, (-1, 0))
    x, info = quick_jit(run)(sources)
    assert np.all(info.converged) and info.converged.shape == (3, 5) and np.all(info.iterations[1] == 0)
    for k in range(3):
        for j, shift in enumerate(np.asarray(SHIFTS)):
            expected = np.linalg.solve(np.asarray(w.matrix) + shift * np.eye(w.matrix.shape[0]), sources[..., k].ravel())
            np.testing.assert_allclose(x[j, ..., k].ravel(), expected, rtol=0, atol=1e-8)


# Two precisions


@functools.cache
def mixed(tol=TOL, max_iterations=2000):
    def run(M, low, b):
        return mixed_precision_cg(
            functools.partial(times, M), functools.partial(times, low), b, tol=tol, max_iterations=max_iterations
        )

    return quick_jit(run)


@pytest.mark.parametrize("real", [False, True])
def test_mixed_precision_reaches_double_precision(real):
    M, b, _ = hermitian(7, 1e-3, real=real)
    low = M.astype(jnp.float32 if real else jnp.complex64)
    for size in (1.0, 1e-60):
        x, info = mixed()(M, low, size * b)
        assert info.converged and info.residual <= TOL and x.dtype == b.dtype
        np.testing.assert_allclose(x / size, np.linalg.solve(M, b), rtol=0, atol=1e-6)
    assert 5 < info.updates < 25
    require_converged(info, "a solve")
    x, info = mixed()(M, low, 0 * b)
    assert info.converged and info.iterations == 0 and not np.any(x)


def test_reliable_updates_cost_no_iterations():
    d = jnp.linspace(1e-3, 1.0, 3000)
    b = jax.random.normal(jax.random.key(7), (3000,), complex)
    plain = quick_jit(lambda b: cg(lambda v: d * v, b, tol=TOL)[1])(b)
    low = d.astype(jnp.float32)
    for delta, updates in ((0.5, 35), (0.1, 11), (1e-3, 4)):
        run = functools.partial(mixed_precision_cg, lambda v: d * v, lambda v: low * v, tol=TOL, delta=delta)
        info = quick_jit(lambda b, run=run: run(b)[1])(b)
        assert info.converged and info.iterations < 1.05 * plain.iterations and info.updates <= updates


def test_mixed_precision_of_bad_input():
    M, b, _ = hermitian(7, 1e-3)
    low = M.astype(jnp.complex64)
    _, info = mixed(TOL, 7)(M, low, b)
    assert not info.converged and info.iterations == 7
    for M_bad, low_bad, b_bad in ((M, low, b * jnp.nan), (M, low * jnp.nan, b), (M * jnp.nan, low, b), (-M, -low, b)):
        _, info = mixed()(M_bad, low_bad, b_bad)
        assert not info.converged and info.updates <= 1
    # a low operator that is another one: the truth of the residual decides
    x, info = mixed()(M, 0.3 * low, b)
    assert not info.converged and info.iterations < 2000
    np.testing.assert_allclose(info.residual, residual_of(M, x, b), rtol=1e-6)
    x, info = mixed()(M, 1.2 * low, b)
    assert info.converged and residual_of(M, x, b) < 1.1 * TOL


def test_mixed_precision_for_wilson_in_a_batch():
    w = wilson()
    sources = jnp.stack([w.source, 0 * w.source], -1)
    single = w.theta.astype(jnp.float32)
    run = jax.vmap(lambda b: mixed_precision_cg(lambda v: w.mv(w.theta, v), lambda v: w.mv(single, v), b, tol=TOL), -1, (-1, 0))
    x, info = quick_jit(run)(sources)
    assert np.all(info.converged) and info.iterations[1] == info.updates[1] == 0
    np.testing.assert_allclose(x[..., 0].ravel(), np.linalg.solve(w.matrix, w.source.ravel()), rtol=0, atol=1e-8)


# Initial guesses


@quick_jit
def guess(M, b, previous):
    return forecast(lambda v: M @ v, b, previous)


@pytest.mark.parametrize("real", [False, True])
def test_forecasts_are_projections(real):
    M, b, other = hermitian(8, 1e-3, real=real)
    V = jnp.stack([other, M @ other, b, M @ b])
    x = guess(M, b, V)
    v = np.asarray(V).T
    np.testing.assert_allclose(x, v @ np.linalg.solve(v.conj().T @ np.asarray(M) @ v, v.conj().T @ np.asarray(b)), rtol=1e-8)
    solution = jnp.asarray(np.linalg.solve(M, b))
    factor = 2.0 if real else 2j
    np.testing.assert_allclose(guess(M, b, V.at[2].set(other + factor * solution)), solution, rtol=1e-8, atol=1e-8)


def test_forecasts_ignore_what_is_empty_equal_or_broken():
    M, b, other = hermitian(8, 1e-3)
    expected = guess(M, b, jnp.stack([other, b, 0 * b, 0 * b]))
    empty, equal = [0 * b, other, 0 * b, b], [other, other * (2 + 1j), b, b + 1e-15 * other]
    for previous in (empty, equal, [other, b, b * jnp.nan, 1e-200 * b]):
        np.testing.assert_allclose(guess(M, b, jnp.stack(previous)), expected, rtol=1e-10)
    np.testing.assert_array_equal(guess(M, b, jnp.zeros((4, N), complex)), 0 * b)


def test_forecasts_save_iterations_along_a_path():
    w = wilson()
    direction = jax.random.normal(jax.random.key(2), w.theta.shape, jnp.float64)

    @quick_jit
    def work(eps, previous):
        def mv(v):
            return w.mv(w.theta + eps * direction, v)

        x0 = forecast(mv, w.source, previous)
        return cg(mv, w.source, tol=1e-6, max_iterations=100, x0=x0)

    previous = jnp.zeros((4, *w.source.shape), w.source.dtype)
    counts = []
    for k in range(6):
        x, info = work(0.02 * k, previous)
        assert info.converged
        counts.append(int(info.iterations))
        previous = jnp.concatenate([x[None], previous[:-1]])
    assert counts[0] > 8 and counts[1] < counts[0] and max(counts[4:]) < counts[0] / 2, counts
