"""The symmetric form of the residual Jacobian against its definition, inverses in place, the derivative of the polar factor."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latflow.flows.residual_jacobian import log_det_jacobian, symmetric_jacobian
from latflow.groups import SUN
from latflow.groups.polar import polar
from latflow.groups.small_linear import inverse_and_log_det, log_det

C128 = jnp.complex128


def cases(group: SUN, kind: str):
    """W with |W| <= 1.6, as in a layer of limit 0.8, whose G(W) is generic, zero, tiny, or degenerate."""
    w = 1.6 * group.haar(jax.random.key(0), (5,), C128)
    if kind == "generic":
        return w
    hermitian = 0.4 * (w + group.adjoint(w))
    if kind == "zero":
        return hermitian
    if kind == "tiny":
        return hermitian + 1e-9 * w
    diagonal = np.diag([1.0] * (group.Nc - 1) + [1.0 - group.Nc]) / group.Nc
    return hermitian + 0.8j * jnp.asarray(diagonal)[:, :, None]


def by_autodiff(group: SUN, w):
    """log |det| of the derivative of U -> exp(i G(U S)) U at U = 1, S = w, in algebra coordinates; w (Nc, Nc)."""

    def image(y):
        u = group.exp(group.from_coordinates(y))
        return group.multiply(group.exp(group.trace_gradient(group.multiply(u, w))), u)

    start = group.adjoint(image(jnp.zeros(group.dimension)))

    def coordinates(y):
        return -2 * group.coordinates(group.trace_gradient(group.multiply(image(y), start)))

    return jnp.linalg.slogdet(jax.jacfwd(coordinates)(jnp.zeros(group.dimension)))[1]


@functools.cache
def compiled(Nc: int):
    """w -> (M, log det, its gradient as that of a sum), compiled; and log det in single precision, and by autodiff."""
    group = SUN(Nc)

    def value(w):
        return log_det_jacobian(group, w, group.trace_gradient(w))

    @jax.jit
    def run(w):
        values, pullback = jax.vjp(value, w)
        return symmetric_jacobian(group, w, group.trace_gradient(w))[0], values, pullback(jnp.ones_like(values))[0]

    return run, jax.jit(value), jax.jit(jax.vmap(lambda v: by_autodiff(group, v), -1))


@pytest.mark.parametrize("kind", ["generic", "zero", "tiny", "degenerate"])
@pytest.mark.parametrize("Nc", [2, 3, 4])
def test_log_det_is_that_of_the_map(Nc, kind):
    group = SUN(Nc)
    w = cases(group, kind)
    run, log_det_of, expected = compiled(Nc)
    M, value, gradient = run(w)
    np.testing.assert_allclose(M, jnp.swapaxes(M, 0, 1), atol=1e-14)
    np.testing.assert_allclose(value, expected(w), atol=1e-13 * Nc**2)
    np.testing.assert_allclose(log_det_of(w.astype(jnp.complex64)), value, atol=5e-6)

    # symmetric difference along random directions, of the real and of the imaginary part of w
    direction, step = group.haar(jax.random.key(1), (5,), C128), 1e-5
    difference = jnp.sum(run(w + step * direction)[1] - run(w - step * direction)[1]) / (2 * step)
    assert float(jnp.sum(jnp.real(gradient * direction))) == pytest.approx(float(difference), abs=1e-8)


def test_inverse_in_place_and_its_use_as_a_derivative():
    a = jnp.asarray(np.eye(6) + 0.1 * np.random.default_rng(0).normal(size=(6, 6)))[:, :, None]
    inverse, value = inverse_and_log_det(a)
    np.testing.assert_allclose(inverse[..., 0], np.linalg.inv(a[..., 0]), atol=1e-14)
    np.testing.assert_allclose([value[0], log_det(a)[0]], np.linalg.slogdet(a[..., 0])[1], atol=1e-14)
    gradient = jax.jit(jax.grad(lambda a: log_det(a)[0]))
    np.testing.assert_allclose(gradient(a)[..., 0], np.linalg.inv(a[..., 0]).T, atol=1e-14)
    # and once more: d(a^-1) = -a^-1 da a^-1
    da = jnp.asarray(np.random.default_rng(1).normal(size=(6, 6, 1)))
    second = jax.jvp(gradient, (a,), (da,))[1][..., 0]
    i = np.linalg.inv(a[..., 0])
    np.testing.assert_allclose(second, -(i @ da[..., 0] @ i).T, atol=1e-13)


POLAR_AND_SLOPE = jax.jit(lambda a, da: jax.jvp(polar, (a,), (da,)))


@pytest.mark.parametrize("scale", [1.0, 1e-8])
@pytest.mark.parametrize("Nc", [2, 3, 4])
def test_derivative_of_the_polar_factor(Nc, scale):
    a, da = scale * jax.random.normal(jax.random.key(2), (2, Nc, Nc, 5), C128)
    step = 1e-6
    difference = (POLAR_AND_SLOPE(a + step * da, da)[0] - POLAR_AND_SLOPE(a - step * da, da)[0]) / (2 * step)
    np.testing.assert_allclose(POLAR_AND_SLOPE(a, da)[1], difference, atol=1e-5)
