"""Groups: the contract of every class, then what is special to SU(N), its exponential and its projection."""

from __future__ import annotations

import contracts
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from contracts import close

from latflow.groups import SUN, U1, AbstractGroup, RealLine, wrap

GROUPS = [U1(), SUN(2), SUN(3), SUN(4), RealLine()]
CHECKS = [
    contracts.check_axioms,
    contracts.check_exponential,
    contracts.check_coordinates,
    contracts.check_gradient,
    contracts.check_projection,
    contracts.check_dtypes,
]


@pytest.mark.parametrize("group", GROUPS, ids=str)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_contract(group, check):
    check(group)


def test_groups_are_hashable_descriptions():
    assert SUN(3) == SUN(3) and hash(SUN(3)) == hash(SUN(3)) and SUN(3) != SUN(2)
    assert all(isinstance(group, AbstractGroup) for group in GROUPS)


def test_impossible_groups_are_refused():
    with pytest.raises(ValueError, match="at least two colours"):
        SUN(1)
    with pytest.raises(ValueError, match="no normalised invariant measure"):
        RealLine().haar(jax.random.key(0), (2,))


def test_wrap_covers_one_period():
    theta = jnp.linspace(-20.0, 20.0, 401)
    close(jnp.exp(1j * wrap(theta)), jnp.exp(1j * theta))
    assert bool(jnp.all((wrap(theta) >= -jnp.pi) & (wrap(theta) < jnp.pi)))
    close(U1().reunitarise(theta)[0], wrap(theta), 0)


@pytest.mark.parametrize("Nc", [2, 3, 4, 5])
def test_generators(Nc):
    t = SUN(Nc).generators()
    close(np.einsum("aij,bji->ab", t, t), np.eye(Nc**2 - 1) / 2, 1e-15)
    close(t, t.conj().swapaxes(1, 2), 0)
    close(np.trace(t, axis1=1, axis2=2), 0, 1e-15)


@pytest.mark.parametrize("Nc", [2, 3, 4])
def test_haar(Nc):
    """Moments that fix unitarity, the determinant and invariance: <Tr> = 0, <|Tr|^2> = 1, <|Tr|^4> = 2, <Tr^Nc> = 1 (only
    with unit determinant), for U and for g U with a fixed g."""
    group, n = SUN(Nc), 20000
    u = jax.jit(group.haar, static_argnums=(1, 2))(jax.random.key(Nc), (n,), jnp.complex128)
    assert u.dtype == jnp.complex128 and group.haar(jax.random.key(0), (2,)).dtype == jnp.complex128
    matrices = np.moveaxis(np.asarray(u), -1, 0)
    close(matrices @ matrices.conj().swapaxes(1, 2), np.broadcast_to(np.eye(Nc), matrices.shape), 1e-13)
    close(np.linalg.det(matrices), 1.0, 1e-13)
    g = np.asarray(contracts.pool(group, 0)[0])[..., 0]
    for field in (matrices, g @ matrices):
        trace = np.trace(field, axis1=1, axis2=2)
        moments = [(trace, 0), (np.abs(trace) ** 2, 1), (np.abs(trace) ** 4, 2), (trace**Nc, 1), (field[:, 0, 1], 0)]
        for samples, expected in moments:
            assert abs(samples.mean() - expected) < 5 * samples.std() / np.sqrt(n)


def test_haar_u1():
    theta = np.asarray(U1().haar(jax.random.key(3), (20000,)))
    for k in (1, 2, 3):
        assert abs(np.exp(1j * k * theta).mean()) < 5 / np.sqrt(20000)


def test_haar_in_single_precision_is_unitary_for_every_draw():
    """The worst of many: nearly singular Ginibre matrices must still end on the group."""
    group = SUN(3)
    u = np.moveaxis(np.asarray(jax.jit(group.haar, static_argnums=(1, 2))(jax.random.key(5), (100_000,), jnp.complex64)), -1, 0)
    assert u.dtype == np.complex64
    assert np.abs(u @ u.conj().swapaxes(1, 2) - np.eye(3)).max() < 2e-6


def degenerate_elements(Nc: int, size: float, rng: np.random.Generator) -> np.ndarray:
    """Hermitian traceless `(n, Nc, Nc)`: generic, zero, exactly and nearly degenerate, diagonal and rotated."""
    z = rng.normal(size=(4, Nc, Nc)) + 1j * rng.normal(size=(4, Nc, Nc))
    generic = z + z.conj().swapaxes(1, 2)
    generic -= np.trace(generic, axis1=1, axis2=2)[:, None, None] * np.eye(Nc) / Nc
    generic *= size / np.linalg.norm(generic, axis=(1, 2))[:, None, None]
    q = np.linalg.qr(z[0])[0]
    spectrum = np.append(np.ones(Nc - 1), 1.0 - Nc) * size / np.sqrt(Nc * (Nc - 1))
    split = spectrum + 1e-8 * np.append([1.0, -1.0], np.zeros(Nc - 2))
    special = [np.zeros((Nc, Nc)), np.diag(spectrum), (q * spectrum) @ q.conj().T, (q * split) @ q.conj().T]
    return np.concatenate([generic, np.array(special)])


def expm_derivatives(x: np.ndarray, d: np.ndarray) -> np.ndarray:
    """exp(iX) and its first two derivatives along D, from the corners of expm of [[X, D, 0], [0, X, D], [0, 0, X]]."""
    n, zero = len(x), np.zeros_like(x)
    m = scipy.linalg.expm(1j * np.block([[x, d, zero], [zero, x, d], [zero, zero, x]]))
    return np.array([m[:n, :n], m[:n, n : 2 * n], 2 * m[:n, 2 * n :]])


@pytest.mark.parametrize("Nc", [2, 3, 4])
def test_exponential_and_its_first_two_derivatives(Nc):
    rng = np.random.default_rng(Nc)
    group = SUN(Nc)

    @jax.jit
    def derivatives(x, d):
        def along(t):
            return group.exp(x + t * d)

        def slope(t):
            return jax.jvp(along, (t,), (1.0,))

        (value, first), (_, second) = jax.jvp(slope, (0.0,), (1.0,))
        return value, first, second

    # large elements lose digits in proportion to powers of their norm, the more the higher the derivative
    for size, tolerances in {0.2: (3e-15, 3e-15, 1e-14), 3.0: (2e-14, 5e-14, 1e-13), 10.0: (3e-13, 3e-11, 1e-9)}.items():
        x = degenerate_elements(Nc, size, rng)
        d = degenerate_elements(Nc, 1.0, rng)[np.arange(len(x)) % 4]
        expected = np.array([expm_derivatives(a, b) for a, b in zip(x, d, strict=True)])
        computed = derivatives(jnp.asarray(x.transpose(1, 2, 0)), jnp.asarray(d.transpose(1, 2, 0)))
        for order, tolerance in enumerate(tolerances):
            close(computed[order].transpose(2, 0, 1), expected[:, order], tolerance)


def test_exponential_in_reverse_mode_under_vmap():
    """The gradient of a directional gradient in coordinates, mapped over the last axis, at generic, zero and degenerate X."""
    group, rng = SUN(3), np.random.default_rng(0)
    points = np.column_stack([rng.normal(size=8), np.zeros(8), 2 * np.eye(8)[7]])
    direction, w = np.linspace(-1.0, 1.0, 8), np.asarray(contracts.pool(group, 0)[0])[..., 0]

    def function(x):
        return group.re_trace(group.multiply(jnp.asarray(w), group.exp(group.from_coordinates(x))))

    def reverse(x):
        return jax.grad(lambda y: jax.grad(function)(y) @ direction)(x) @ direction

    computed = jax.jit(jax.vmap(reverse, in_axes=-1))(jnp.asarray(points))
    t = group.generators()
    second = [expm_derivatives(np.tensordot(x, t, 1), np.tensordot(direction, t, 1))[2] for x in points.T]
    close(computed, [np.trace(w @ m).real for m in second])


def test_exponential_survives_bad_numbers():
    """A nan spoils its own site only, and does not stall the squarings."""
    group = SUN(3)
    x = group.random_algebra(jax.random.key(0), (2,))
    u = jax.jit(group.exp)(x.at[..., 0].set(jnp.nan))
    assert bool(jnp.all(jnp.isnan(u[..., 0])))
    assert jax.jit(group.exp)(jnp.zeros((3, 3, 0), jnp.complex128)).shape == (3, 3, 0)


@pytest.mark.parametrize("Nc", [2, 3, 4])
def test_projection_against_scipy(Nc):
    rng = np.random.default_rng(Nc)
    w = rng.normal(size=(6, Nc, Nc)) + 1j * rng.normal(size=(6, Nc, Nc))
    w[4] *= 1e30
    w[5] = w[5] @ np.diag(10.0 ** -np.arange(Nc))
    polar = np.array([scipy.linalg.polar(m)[0] for m in w])
    expected = polar * np.exp(-1j * np.angle(np.linalg.det(polar)) / Nc)[:, None, None]
    close(jax.jit(SUN(Nc).project)(jnp.asarray(w.transpose(1, 2, 0))).transpose(2, 0, 1), expected, 1e-11)


def test_projection_is_differentiable():
    group, rng = SUN(3), np.random.default_rng(1)
    w, d, c = (jnp.asarray(rng.normal(size=(3, 3, 2)) + 1j * rng.normal(size=(3, 3, 2))) for _ in range(3))

    @jax.jit
    def value_and_grad(t):
        return jax.value_and_grad(lambda t: jnp.sum(jnp.real(c * group.project(w + t * d))))(t)

    close(value_and_grad(0.0)[1], (value_and_grad(1e-5)[0] - value_and_grad(-1e-5)[0]) / 2e-5, 1e-7)


def test_reunitarise_measures_and_removes_the_drift():
    group, rng = SUN(3), np.random.default_rng(2)
    u, reunitarise = contracts.pool(group, 0)[0], contracts.compiled(group).reunitarise
    noise = rng.normal(size=u.shape) + 1j * rng.normal(size=u.shape)
    for size in (1e-10, 1e-3, 0.1):
        drifted = np.moveaxis(np.asarray(u) + size * noise, -1, 0)
        restored, drift = reunitarise(jnp.asarray(np.moveaxis(drifted, 0, -1)))
        excess = np.abs(drifted.conj().swapaxes(1, 2) @ drifted - np.eye(3)).max()
        determinant = np.abs(np.linalg.det(drifted) - 1).max()
        np.testing.assert_allclose(drift, max(excess, determinant), rtol=1e-4)
        assert reunitarise(restored)[1] < 1e-13
        if size < 0.1:
            assert np.abs(restored - u).max() < 10 * size
    # a common phase is a drift too: unitary, but not special
    restored, drift = reunitarise(u * jnp.exp(1e-4j))
    np.testing.assert_allclose(drift, 3e-4, rtol=1e-3)
    close(restored, u)


def test_long_products_in_single_precision_drift_measurably():
    group = SUN(3)
    u = contracts.pool(group, 0)[0].astype(jnp.complex64)
    product = jax.jit(lambda u: jax.lax.fori_loop(0, 1000, lambda _, v: group.multiply(u, v), u))(u)
    reunitarise = contracts.compiled(group).reunitarise
    restored, drift = reunitarise(product)
    assert restored.dtype == jnp.complex64 and 2e-6 < drift < 1e-2
    assert reunitarise(restored)[1] < 2e-6
