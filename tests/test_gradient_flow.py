"""Gradient flow, clover and smearing: order and rate of the integration, analytic fields, gauge symmetry."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts import gauge_transform

from latflow.actions import WilsonGauge
from latflow.groups import SUN, U1
from latflow.lattice import Geometry
from latflow.observables.gradient_flow import (
    energy_clover,
    energy_plaquette,
    flow_scale_t,
    flow_scale_w,
    flow_step,
    flow_velocity,
    gradient_flow,
    topological_charge_clover,
)
from latflow.observables.smearing import Smearing

F64, C128 = jnp.float64, jnp.complex128


def rough(group, shape, seed: int = 1, strength: float = 0.4):
    """Links near, but not close to, the identity."""
    x = group.random_algebra(jax.random.key(seed), (len(shape), *shape), C128 if group.colour_shape else F64)
    return group.exp(strength * x)


def all_three(group, geometry):
    """links -> (energy of plaquettes, of the clover, charge), compiled."""
    return jax.jit(lambda u: [f(group, geometry, u) for f in (energy_plaquette, energy_clover, topological_charge_clover)])


@pytest.mark.parametrize("group", [U1(), SUN(2), SUN(3)])
def test_velocity_is_the_downhill_gradient_of_the_action(group):
    geometry = Geometry((3, 4, 2))
    U = rough(group, geometry.shape)
    # g_0^2 S_W = sum over plaquettes of 2 Re tr(1 - P), of 1 - cos P for U(1)
    action = WilsonGauge(geometry, group, 2.0 * group.Nc if group.colour_shape else 1.0)
    gradient = jax.jit(lambda u: group.gradient(action, u)[1])(U)
    np.testing.assert_allclose(jax.jit(lambda u: flow_velocity(group, geometry, u))(U), -gradient, atol=1e-12)


def test_free_modes_decay_by_the_heat_kernel():
    """A transverse plane wave of a weak U(1) field: theta_1 = eps cos(p x_0) exp(-p^^2 t)."""
    geometry, t = Geometry((8, 3, 3)), 0.7
    wave = jnp.broadcast_to(jnp.cos(2 * jnp.pi * jnp.arange(8) / 8).reshape(8, 1, 1), geometry.shape)
    theta = jnp.zeros((3, *geometry.shape)).at[1].set(1e-4 * wave)
    flowed = jax.jit(lambda x: gradient_flow(U1(), geometry, x, [t], step=0.02).links)(theta)
    momentum2 = (2 * np.sin(np.pi / 8)) ** 2
    np.testing.assert_allclose(flowed, np.exp(-momentum2 * t) * theta, atol=1e-10)


@pytest.mark.parametrize("Nc", [2, 3])
def test_integration_is_of_third_order_and_the_adaptive_one_agrees(Nc):
    group, geometry = SUN(Nc), Geometry((4, 3))
    U, t = rough(group, (4, 3)), 0.4
    run = jax.jit(lambda count: jax.lax.fori_loop(0, count, lambda _, u: flow_step(group, geometry, u, t / count)[0], U))
    best, coarse, fine = run(256), run(8), run(16)
    errors = [float(jnp.max(jnp.abs(u - best))) for u in (coarse, fine)]
    assert 6 < errors[0] / errors[1] < 10.5
    adaptive = jax.jit(lambda u: gradient_flow(group, geometry, u, [t / 3, t], step=0.1, tolerance=1e-8))(U)
    assert adaptive.converged and 5 < int(adaptive.steps) < 400
    assert jnp.max(jnp.abs(adaptive.links - best)) < 1e-6


def test_energy_falls_and_times_are_hit():
    group, geometry = SUN(3), Geometry((4, 4))

    def both(u):
        return jnp.stack([energy_plaquette(group, geometry, u), energy_clover(group, geometry, u)])

    times = [0.0, 0.11, 0.11, 0.5]
    U = rough(group, (4, 4))
    out = jax.jit(lambda u: gradient_flow(group, geometry, u, times, both, step=0.05))(U)
    assert int(out.steps) == 3 + 8 and out.values.shape == (4, 2)
    np.testing.assert_allclose(out.values[0], both(U), rtol=1e-12)
    np.testing.assert_allclose(out.values[1], out.values[2], rtol=1e-12)
    assert out.values[3, 0] < out.values[1, 0] < out.values[0, 0]
    adaptive = jax.jit(lambda u: gradient_flow(group, geometry, u, times, both, step=0.05, tolerance=1e-7))(U)
    np.testing.assert_allclose(adaptive.values, out.values, rtol=1e-3)


def abelian(Nc: int, shape: tuple[int, int, int, int], flux: tuple[int, int]):
    """Constant field strength 2 pi n / (L_a L_b) diag(1, -1, 0...) in the planes (0, 1) and (2, 3)."""
    x = np.meshgrid(*map(np.arange, shape), indexing="ij")
    angle = np.zeros((4, *shape))
    for n, (a, b) in zip(flux, ((0, 1), (2, 3)), strict=True):
        phi = 2 * np.pi * n / (shape[a] * shape[b])
        angle[b] += phi * x[a]
        angle[a] -= np.where(x[a] == shape[a] - 1, phi * shape[a] * x[b], 0)
    U = np.zeros((Nc, Nc, 4, *shape), complex)
    for i in range(Nc):
        U[i, i] = np.exp(1j * angle * {0: 1, 1: -1}.get(i, 0))
    return jnp.asarray(U)


@pytest.mark.parametrize("Nc", [2, 3])
def test_constant_field_has_the_analytic_energy_and_charge(Nc):
    """F = phi sigma_3 in both planes, Q = 2 n m; the clover sees sin phi."""
    group, shape, flux = SUN(Nc), (4, 5, 6, 4), (1, -2)
    geometry, U = Geometry(shape), abelian(Nc, shape, flux)
    phi = np.array([2 * np.pi * flux[0] / 20, 2 * np.pi * flux[1] / 24])
    plaquette, clover, charge = map(float, all_three(group, geometry)(U))
    assert plaquette == pytest.approx(4 * np.sum(1 - np.cos(phi)), rel=1e-12)
    assert clover == pytest.approx(2 * np.sum(np.sin(phi) ** 2), rel=1e-12)
    assert charge == pytest.approx(2 * flux[0] * flux[1] * np.prod(np.sin(phi) / phi), rel=1e-12)


def instanton(L: int, size: float):
    """The BPST instanton of SU(2) in singular gauge, A^a_mu = 2 eta_{a mu nu} x_nu rho^2 / (x^2 (x^2 + rho^2)), centred in a
    hypercube of an L^4 box. Along a link its direction in colour space is constant, so the link is known exactly."""
    x = np.stack(np.meshgrid(*[np.arange(L) - L / 2 + 0.5] * 4, indexing="ij"))
    sigma = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])
    eta = np.zeros((3, 4, 4))
    for a in range(3):
        b, c = (a + 1) % 3, (a + 2) % 3
        eta[a, b + 1, c + 1], eta[a, c + 1, b + 1] = 1, -1
        eta[a, a + 1, 0], eta[a, 0, a + 1] = 1, -1
    group, links = SUN(2), []
    for mu in range(4):
        across = (x**2).sum(0) - x[mu] ** 2

        def along(square, mu=mu):
            b = np.sqrt(square)
            return (np.arctan((x[mu] + 1) / b) - np.arctan(x[mu] / b)) / b

        weight = along(across) - along(across + size**2)
        transverse = np.einsum("av,v...->a...", eta[:, mu], x)
        links.append(-np.einsum("aij,a...->ij...", sigma, transverse * weight))
    return group.exp(jnp.asarray(np.stack(links, 2)))


def test_one_instanton_has_charge_one():
    """The clover misses terms of order (a / rho)^2, so that two sizes extrapolate to the continuum."""
    L, sizes = 12, np.array([2.0, 3.0])
    group, geometry = SUN(2), Geometry((L,) * 4)

    def measure(u):
        return jnp.stack([topological_charge_clover(group, geometry, u), energy_plaquette(group, geometry, u) * L**4])

    run = jax.jit(lambda u: gradient_flow(group, geometry, u, [0.0, 1.0], measure, step=0.1).values)
    found = np.array([run(instanton(L, size)) for size in sizes])
    charge = found[:, 0, 0]
    continuum = (charge[1] * sizes[1] ** 2 - charge[0] * sizes[0] ** 2) / (sizes[1] ** 2 - sizes[0] ** 2)
    assert abs(abs(continuum) - 1) < 0.04
    assert abs(found[1, 1, 0] - charge[1]) < 0.02  # the flow leaves it alone
    assert found[0, 0, 1] / (8 * np.pi**2) == pytest.approx(1, abs=0.06)  # g^2 S of one instanton
    U = instanton(L, 2.0)
    mirrored = jnp.flip(U, 3).at[:, :, 0].set(group.adjoint(jnp.roll(jnp.flip(U[:, :, 0], 2), -1, 2)))
    assert topological_charge_clover(group, geometry, mirrored) == pytest.approx(-charge[0], abs=1e-10)


def test_everything_is_gauge_invariant_or_covariant():
    group, geometry = SUN(3), Geometry((3, 2, 3, 2))
    U, omega = rough(group, geometry.shape), group.haar(jax.random.key(4), geometry.shape, C128)
    turned = gauge_transform(group, U, omega, 4)
    measure = all_three(group, geometry)
    np.testing.assert_allclose(measure(turned), measure(U), atol=1e-10)
    for smear in (Smearing("ape", 0.5, 2), Smearing("stout", 0.1, 2), Smearing("ape", 0.4, 1, spatial=True)):
        run = jax.jit(lambda u, smear=smear: smear(group, geometry, u))
        np.testing.assert_allclose(run(turned), gauge_transform(group, run(U), omega, 4), atol=1e-12)


@pytest.mark.parametrize("group", [U1(), SUN(3)])
def test_smearing(group):
    geometry = Geometry((3, 4, 3))
    U = rough(group, geometry.shape)

    def smeared(smearing, u, geometry=geometry):
        return jax.jit(lambda v: smearing(group, geometry, v))(u)

    stout = smeared(Smearing("stout", 0.1, 1), U)
    np.testing.assert_allclose(stout, group.move(0.1 * flow_velocity(group, geometry, U), U), atol=1e-13)
    spatial = smeared(Smearing("stout", 0.1, 2, spatial=True), U)
    axis = len(group.colour_shape)
    np.testing.assert_array_equal(jnp.take(spatial, 0, axis), jnp.take(U, 0, axis))
    # spatial smearing of a slice is smearing of the slice
    one = jnp.take(jnp.delete(U, 0, axis), 1, axis + 1)
    np.testing.assert_allclose(
        jnp.take(jnp.delete(spatial, 0, axis), 1, axis + 1),
        smeared(Smearing("stout", 0.1, 2), one, Geometry((4, 3))),
        atol=1e-13,
    )
    for smearing in (Smearing("ape", 0.5, 3), Smearing("stout", 0.1, 3)):
        assert energy_plaquette(group, geometry, smeared(smearing, U)) < 0.7 * energy_plaquette(group, geometry, U)


def test_scales_of_a_known_curve():
    """t^2 E = t^2 / 5: t_c = sqrt(5 c); t d/dt = 2 t^2 / 5 = 0.3 at w_0^2 = sqrt(3/4)."""
    times = jnp.linspace(0, 2, 401)
    curve = times**2 / 5
    assert flow_scale_t(times, curve) == pytest.approx(np.sqrt(1.5), abs=1e-5)
    assert flow_scale_t(times, curve, 0.35) == pytest.approx(np.sqrt(1.75), abs=1e-5)
    assert flow_scale_w(times, curve) == pytest.approx(0.75**0.25, abs=1e-5)
    assert jnp.isnan(flow_scale_t(times, curve, 0.9))


@pytest.mark.parametrize(
    ("times", "options", "message"),
    [([1.0, 0.5], {}, "decrease"), ([-1.0], {}, "negative"), ([1.0], {"step": 0.0}, "positive"), ([], {}, "flow times")],
)
def test_wrong_times_are_refused(times, options, message):
    geometry = Geometry((2, 2))
    with pytest.raises(ValueError, match=message):
        gradient_flow(U1(), geometry, jnp.zeros((2, 2, 2)), times, **options)


@pytest.mark.parametrize(
    "make", [lambda: Smearing("ape", 1.5, 1), lambda: Smearing("stout", 0.0, 1), lambda: Smearing("ape", 0.5, 0)]
)
def test_wrong_smearing_is_refused(make):
    with pytest.raises(ValueError, match="smearing needs"):
        make()
