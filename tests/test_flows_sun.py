"""Spectra and coupling layers of SU(N): round trip, Jacobian against autodiff, gauge symmetry, degenerate plaquettes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts import gauge_transform

from latflow.actions import WilsonGauge
from latflow.flows import ResidualCoupling, ResidualSweep, SpectralCoupling, sun_coupling_flow
from latflow.flows.staple_view import BlockStaples, ConvolutedStaples, PlaquetteStaples
from latflow.flows.weyl_cell import angles_of, to_cell
from latflow.groups import SUN
from latflow.groups.spectral import recompose, spectrum
from latflow.lattice import Geometry, coarse_to_fine, diagonal, stripes

F64, C128 = jnp.float64, jnp.complex128
KEY = jax.random.key(0)
SMALL = {"hidden": (5,), "conv": (3,), "dtype": F64}
SQUARE, CUBE = Geometry((4, 4)), Geometry((4, 4, 4))


def rough(bijection, seed: int = 7, scale: float = 0.3):
    arrays, rest = eqx.partition(bijection, eqx.is_inexact_array)
    leaves, tree = jax.tree.flatten(arrays)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    leaves = [x + scale * jax.random.normal(k, x.shape, x.dtype) for x, k in zip(leaves, keys, strict=True)]
    return eqx.combine(jax.tree.unflatten(tree, leaves), rest)


@dataclasses.dataclass(frozen=True)
class Row:
    make: Callable
    Nc: int
    geometry: Geometry
    moved: int  # links, of all
    jacobian: bool = True


def block(Nc: int):
    mask, size = coarse_to_fine(SQUARE)[2]
    return SpectralCoupling(BlockStaples(mask, SUN(Nc), size), key=KEY, bins=5, **SMALL)


def stripe(Nc: int, mu: int, phase: int, **options):
    return SpectralCoupling(PlaquetteStaples(stripes(SQUARE, mu), SUN(Nc)), key=KEY, phase=phase, bins=4, **options, **SMALL)


ROWS = {
    "spectral block SU(2)": Row(lambda: block(2), 2, SQUARE, 4),
    "spectral block SU(3)": Row(lambda: block(3), 3, SQUARE, 4),
    "spectral stripes SU(2)": Row(lambda: stripe(2, 1, 2, main=1), 2, SQUARE, 4),
    "spectral stripes SU(3)": Row(lambda: stripe(3, 0, 1), 3, SQUARE, 4),
    "spectral stripes SU(4)": Row(lambda: stripe(4, 0, 3), 4, SQUARE, 4, jacobian=False),
    "spectral diagonal SU(3) 3D": Row(
        lambda: SpectralCoupling(PlaquetteStaples(diagonal(CUBE, 1), SUN(3)), key=KEY, phase=1, bins=4, main=2, **SMALL),
        3,
        CUBE,
        16,
        jacobian=False,
    ),
    "residual SU(2)": Row(
        lambda: ResidualCoupling(PlaquetteStaples(stripes(SQUARE, 0), SUN(2)), key=KEY, phase=1, **SMALL), 2, SQUARE, 4
    ),
    "residual smeared SU(3)": Row(
        lambda: ResidualCoupling(ConvolutedStaples(stripes(SQUARE, 1), SUN(3), 2), key=KEY, phase=3, isotropic=True, **SMALL),
        3,
        SQUARE,
        4,
    ),
    "residual block SU(3)": Row(
        lambda: ResidualCoupling(BlockStaples(coarse_to_fine(SQUARE)[1][0], SUN(3), (4, 2)), key=KEY, **SMALL), 3, SQUARE, 2
    ),
    "coarse-to-fine SU(2)": Row(
        lambda: sun_coupling_flow(
            Geometry((2, 4)),
            SUN(2),
            key=KEY,
            mask="coarse-to-fine",
            layers=("spectral", "residual"),
            depth=1,
            blocks=0,
            bins=4,
            hidden=(3,),
            dtype=F64,
        ),
        2,
        Geometry((2, 4)),
        7,
        jacobian=False,
    ),
}


def forward_of(row: Row, layer):
    """u -> (image, log det, Jacobian in algebra coordinates or None), compiled."""
    group = SUN(row.Nc)
    if not row.jacobian:
        return jax.jit(lambda u: (*layer.forward_and_log_det(u), None))

    @jax.jit
    def run(u):
        def moved(w):
            y, log_det = layer.forward_and_log_det(group.multiply(group.exp(group.from_coordinates(w)), u))
            return y, (y, log_det)

        zero = jnp.zeros((group.dimension, *u.shape[2:]))
        tangents, (image, log_det) = jax.jacfwd(moved, has_aux=True)(zero)

        def coordinates(tangent):  # d image = i X image
            return -2 * group.coordinates(group.trace_gradient(group.multiply(tangent, group.adjoint(image)))).ravel()

        return image, log_det, jax.vmap(coordinates, -1, -1)(tangents.reshape(*u.shape, zero.size))

    return run


@pytest.mark.parametrize("name", ROWS)
def test_round_trip_jacobian_and_gauge_symmetry(name):
    row = ROWS[name]
    group, shape = SUN(row.Nc), row.geometry.shape
    layer = rough(row.make())
    links = group.haar(jax.random.key(3), (len(shape), *shape), C128)
    forward = forward_of(row, layer)
    image, log_det, jacobian = forward(links)
    back, log_back = jax.jit(lambda u: layer.inverse_and_log_det(u))(image)
    np.testing.assert_allclose(back, links, atol=1e-11)
    assert abs(float(log_det + log_back)) < 1e-10
    assert abs(float(log_det)) > 1e-3
    assert group.reunitarise(image)[1] < 1e-12
    assert int(jnp.sum(jnp.any(jnp.abs(image - links) > 1e-9, axis=(0, 1)))) == row.moved
    if row.jacobian:
        assert abs(float(jnp.linalg.slogdet(jacobian)[1] - log_det)) < 1e-10

    omega = group.haar(jax.random.key(9), shape, C128)
    turned, turned_log_det, _ = forward(gauge_transform(group, links, omega, len(shape)))
    np.testing.assert_allclose(turned, gauge_transform(group, image, omega, len(shape)), atol=1e-11)
    assert abs(float(turned_log_det - log_det)) < 1e-10


@pytest.mark.optimised
@pytest.mark.parametrize("Nc", [2, 3, 4])
def test_spectrum_of_random_and_of_degenerate_matrices(Nc):
    group = SUN(Nc)
    u = group.haar(jax.random.key(0), (64,), C128)
    shift = np.full(Nc, 0.7)
    shift[-1] = -0.7 * (Nc - 1)
    pair = recompose(u, jnp.broadcast_to(jnp.asarray(shift)[:, None], (Nc, 64))) if Nc > 2 else u

    @jax.jit
    def run(p):
        theta, v = spectrum(p)
        return recompose(v, theta), group.multiply(group.adjoint(v), v)

    for size in (0.0, 1e-12, 1e-8, 1e-4):
        near = group.exp(size * group.random_algebra(jax.random.key(1), (64,), C128))
        for p in (u, near, group.multiply(pair, near)):
            again, unit = run(p)
            np.testing.assert_allclose(again, p, atol=2e-13)
            np.testing.assert_allclose(unit, group.identity((64,), C128), atol=1e-13)


@pytest.mark.parametrize("Nc", [2, 3, 4])
def test_cell_angles_are_the_eigenvalues(Nc):
    u = SUN(Nc).haar(jax.random.key(2), (64,), C128)

    @jax.jit
    def run(u):
        theta, v = spectrum(u)
        cell = to_cell(theta)
        angles = angles_of(cell.box)
        return angles, recompose(v, (cell.order * angles[:, None]).sum(0))

    angles, again = run(u)
    np.testing.assert_allclose(angles.sum(0), 0, atol=1e-12)
    assert np.all(np.diff(angles, axis=0) < 0) and np.all(angles[0] - angles[-1] < 2 * np.pi)
    np.testing.assert_allclose(again, u, atol=1e-12)


@functools.cache
def stripe_and_gradient(Nc: int):
    """links -> (links again, log det of the inverse, log det, its gradient), compiled."""
    layer = rough(stripe(Nc, 0, 0))

    @jax.jit
    def run(links):
        (image, log_det), pullback = jax.vjp(layer.forward_and_log_det, links)
        (gradient,) = pullback((jnp.zeros_like(image), jnp.ones_like(log_det)))
        return *layer.inverse_and_log_det(image), log_det, gradient

    return run


@pytest.mark.optimised
@pytest.mark.parametrize(("Nc", "size"), [(2, 1e-9), (3, 0.0), (3, 1e-5)])
def test_layers_are_safe_at_degenerate_plaquettes(Nc, size):
    """Cold links: every loop has all eigenvalues equal, exactly or nearly. There log det depends on the direction in which they
    part, so its gradient grows like the inverse distance, and no faster."""
    group = SUN(Nc)
    links = group.exp(size * group.random_algebra(jax.random.key(4), (2, 4, 4), C128))
    back, log_back, log_det, gradient = stripe_and_gradient(Nc)(links)
    np.testing.assert_allclose(back, links, atol=1e-6)
    assert np.isfinite(log_det) and abs(float(log_det + log_back)) < (1e-2 if size > 1e-6 else 2)
    assert np.all(np.isfinite(gradient)) and np.max(np.abs(gradient)) < 10 / max(size, 1e-8)


def test_one_plaquette_coefficient_is_an_euler_step_of_the_gradient_flow():
    """U' = exp(eps G) U with the force of all plaquettes through the link, and log det = -(4/3) eps tr W to first order."""
    group, geometry, eps = SUN(3), SQUARE, 1e-3
    links = group.haar(jax.random.key(5), (2, 4, 4), C128)
    layer = ResidualCoupling(PlaquetteStaples(stripes(geometry, 0), group), key=KEY, hidden=None, dtype=F64, isotropic=True)
    # the coefficient is 2 limit / sqrt(2) raw / sqrt(1 + 2 raw^2)
    raw = eps / (np.sqrt(2) * 0.8)
    layer = eqx.tree_at(lambda f: f.strengths, layer, jnp.asarray([raw / np.sqrt(1 - 2 * raw**2)]))
    image, log_det, staples = jax.jit(lambda u: (*layer.forward_and_log_det(u), layer.view(u).staples))(links)
    force = WilsonGauge(geometry, group, 3.0).value_and_force(links)[1]  # -sum G for beta = Nc
    active = stripes(geometry, 0).links()
    step = group.exp(jnp.where(active[None, None], -eps * force, 0))
    np.testing.assert_allclose(image, group.multiply(step, links), atol=1e-13)
    u = layer.view.mask.compact(links[:, :, 0])
    trace = sum(float(jnp.sum(group.re_trace(group.multiply(u, staples[:, :, k])))) for k in range(2))
    # G halves, so the Laplacian of Re tr W, -(N^2-1)/N times it, enters with one half: -(8/3)/2 = -4/3
    assert float(log_det) == pytest.approx(-4 / 3 * eps * trace, abs=20 * eps**2)


def test_a_residual_layer_refuses_steps_that_are_not_invertible():
    with pytest.raises(ValueError, match="limit"):
        ResidualCoupling(PlaquetteStaples(stripes(SQUARE, 0), SUN(2)), key=KEY, limit=1.0)


def test_a_sweep_is_every_mask_in_turn_with_shared_parameters():
    group = SUN(2)
    sweep = rough(ResidualSweep(SQUARE, group, rounds=1, eta=0.3, dtype=F64))
    links = group.haar(jax.random.key(3), (2, 4, 4), C128)
    image, log_det = eqx.filter_jit(lambda b, u: b.forward_and_log_det(u))(sweep, links)
    expected, total = links, 0.0
    for mask in sweep.masks:
        view = ConvolutedStaples(mask, group, 1)
        layer = ResidualCoupling(view, key=KEY, phase=0, isotropic=True, hidden=None, dtype=F64)
        layer = eqx.tree_at(lambda s: (s.strengths, s.log_eta), layer, (sweep.strengths, sweep.log_eta))
        step = eqx.filter_jit(lambda phase, u, layer=layer: eqx.tree_at(lambda s: s.phase, layer, phase).forward_and_log_det(u))
        for phase in range(4):
            expected, more = step(jnp.asarray(phase, jnp.int32), expected)
            total = total + more
    np.testing.assert_allclose(image, expected, atol=1e-12)
    assert abs(float(log_det - total)) < 1e-11 and abs(float(log_det)) > 0.1
    assert np.all(np.max(np.abs(image - links), axis=(0, 1)) > 1e-6)  # every link moved
    back, log_back = eqx.filter_jit(lambda b, u: b.inverse_and_log_det(u))(sweep, image)
    np.testing.assert_allclose(back, links, atol=1e-11)
    assert abs(float(log_det + log_back)) < 1e-10
