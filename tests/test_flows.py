"""The contract of bijections: one row per class; round trip, Jacobian against autodiff, symmetry, batches, precision."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latflow.flows import Chain, Identity, Inverse, ScalarCoupling, Scan, U1Coupling, scalar_coupling_flow, u1_coupling_flow
from latflow.flows.loop_view import BlockView, DiagonalView, StripeView
from latflow.flows.spline import (
    circular_forward,
    circular_inverse,
    harmonic_forward,
    harmonic_inverse,
    interval_forward,
    interval_inverse,
)
from latflow.groups import wrap
from latflow.lattice import Geometry, coarse_to_fine, diagonal, shift, stripes

F64 = jnp.float64


def rough(bijection, seed: int = 7, scale: float = 0.3):
    """The same bijection with generic parameters, so that no test passes because a layer is near the identity."""
    arrays, rest = eqx.partition(bijection, eqx.is_inexact_array)
    leaves, tree = jax.tree.flatten(arrays)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    leaves = [x + scale * jax.random.normal(k, x.shape, x.dtype) for x, k in zip(leaves, keys, strict=True)]
    return eqx.combine(jax.tree.unflatten(tree, leaves), rest)


@dataclasses.dataclass(frozen=True)
class Row:
    make: Callable
    shape: tuple[int, ...]
    gauge: bool
    layer_mask: Callable | None = None  # for single layers: boolean array of moved variables
    jacobian: bool = True
    symmetry: Callable | None = None  # a second symmetry f(s(x)) = s(f(x))


SMALL = {"bins": 4, "hidden": (5,), "conv": (3,), "dtype": F64}
HEAD = {"bins": 4, "hidden": (5,), "dtype": F64}
SQUARE = Geometry((4, 8))
CUBE = Geometry((4, 4, 4))
BOX = Geometry((4, 2, 4, 4))
KEY = jax.random.key(0)


def stripe_layer(mu, phase, loop):
    return U1Coupling(StripeView(stripes(SQUARE, mu), loop), key=KEY, phase=phase, **SMALL)


ROWS = {
    "identity": Row(lambda: Identity(), (2, 4, 4), True),
    "stripes plaquette": Row(lambda: stripe_layer(0, 1, "plaquette"), (2, 4, 8), True, lambda: stripes(SQUARE, 0).links(1)),
    "stripes staples": Row(lambda: stripe_layer(1, 2, "staples"), (2, 4, 8), True, lambda: stripes(SQUARE, 1).links(2)),
    "diagonal 3D plaquette": Row(
        lambda: U1Coupling(DiagonalView(diagonal(CUBE, 1), "plaquette"), key=KEY, phase=3, separable=True, **SMALL),
        (3, 4, 4, 4),
        True,
        lambda: diagonal(CUBE, 1).links(3),
    ),
    "diagonal 4D staples": Row(
        lambda: U1Coupling(DiagonalView(diagonal(BOX, 0), "staples"), key=KEY, phase=1, separable=True, **SMALL),
        (4, 4, 2, 4, 4),
        True,
        lambda: diagonal(BOX, 0).links(1),
        jacobian=False,
    ),
    "block": Row(
        lambda: U1Coupling(BlockView(*coarse_to_fine(SQUARE)[2]), key=KEY, **HEAD),
        (2, 4, 8),
        True,
        lambda: coarse_to_fine(SQUARE)[2][0].links(),
        symmetry=lambda x: -x,
    ),
    "coarse-to-fine flow": Row(
        lambda: u1_coupling_flow(SQUARE, key=KEY, mask="coarse-to-fine", blocks=0, **HEAD),
        (2, 4, 8),
        True,
        symmetry=lambda x: -x,
    ),
    "scanned stripes": Row(lambda: u1_coupling_flow(SQUARE, key=KEY, blocks=2, **SMALL), (2, 4, 8), True),
    "inverse": Row(lambda: Inverse(stripe_layer(0, 0, "plaquette")), (2, 4, 8), True),
    "affine Z2": Row(
        lambda: ScalarCoupling(SQUARE, key=KEY, parity=1, hidden=(3,), dtype=F64),
        (4, 8),
        False,
        lambda: SQUARE.parity() == 1,
        symmetry=lambda x: -x,
    ),
    "affine": Row(
        lambda: ScalarCoupling(SQUARE, key=KEY, hidden=(3,), z2=False, dtype=F64), (4, 8), False, lambda: SQUARE.parity() == 0
    ),
    "scalar spline Z2": Row(
        lambda: ScalarCoupling(SQUARE, key=KEY, transform="spline", hidden=(3,), bins=4, dtype=F64),
        (4, 8),
        False,
        lambda: SQUARE.parity() == 0,
        symmetry=lambda x: -x,
    ),
    "scalar spline": Row(
        lambda: ScalarCoupling(SQUARE, key=KEY, transform="spline", hidden=(3,), bins=4, z2=False, dtype=F64), (4, 8), False
    ),
    "scanned scalar": Row(
        lambda: scalar_coupling_flow(SQUARE, key=KEY, blocks=2, hidden=(3,), transform="spline", bins=4, dtype=F64),
        (4, 8),
        False,
        symmetry=lambda x: jnp.roll(-x, (1, 1), (0, 1)),
    ),
}
ATOL = 1e-9


def jit(method):
    """Bound methods of modules with arrays cannot be hashed, which jit would need."""
    return jax.jit(lambda *arguments: method(*arguments))


def angle_close(a, b, gauge: bool) -> None:
    difference = wrap(a - b) if gauge else a - b
    assert float(jnp.max(jnp.abs(difference))) < ATOL


def field(row: Row, seed: int = 1):
    key = jax.random.key(seed)
    return jax.random.uniform(key, row.shape, F64, -np.pi, np.pi) if row.gauge else jax.random.normal(key, row.shape, F64)


@functools.cache
def case(name: str) -> SimpleNamespace:
    """A bijection with generic parameters, compiled once: x -> (y, log det, Jacobian or None), and its inverse."""
    row = ROWS[name]
    f = rough(row.make())

    def flat(v):
        y, log_det = f.forward_and_log_det(v.reshape(row.shape))
        return y.ravel(), (y, log_det)

    def forward(x):
        if not row.jacobian:
            return *f.forward_and_log_det(x), None
        jacobian, (y, log_det) = jax.jacfwd(flat, has_aux=True)(x.ravel())
        return y, log_det, jacobian

    return SimpleNamespace(f=f, forward=jax.jit(forward), inverse=jit(f.inverse_and_log_det))


@pytest.mark.parametrize("name", ROWS)
def test_round_trip_and_jacobian(name):
    row, c = ROWS[name], case(name)
    x = field(row)
    y, log_det, jacobian = c.forward(x)
    if row.jacobian:
        sign, want = jnp.linalg.slogdet(jacobian)
        assert sign == 1
        np.testing.assert_allclose(log_det, want, atol=ATOL)
        if row.layer_mask is not None:
            moved = row.layer_mask().ravel()
            same = np.eye(x.size)
            np.testing.assert_allclose(jacobian[~moved], same[~moved], atol=ATOL)
            block = np.asarray(jacobian)[np.ix_(moved, moved)]
            np.testing.assert_allclose(block, np.diag(np.diag(block)), atol=ATOL)
            assert np.abs(np.log(np.diag(block))).max() > 1e-3
    else:
        moved = row.layer_mask()
        np.testing.assert_array_equal(y[~moved], x[~moved])
    back, log_det_back = c.inverse(y)
    angle_close(back, x, row.gauge)
    np.testing.assert_allclose(log_det_back, -log_det, atol=ATOL)


def transform(theta, omega):
    Nd = omega.ndim
    return theta + jnp.stack([omega - shift(omega, mu, Nd) for mu in range(Nd)])


@pytest.mark.parametrize("name", [n for n, row in ROWS.items() if row.gauge])
def test_gauge_equivariance(name):
    row, forward = ROWS[name], case(name).forward
    x = field(row)
    omega = jax.random.uniform(jax.random.key(5), row.shape[1:], F64, -3, 3)
    y, log_det, _ = forward(x)
    turned, log_det_turned, _ = forward(transform(x, omega))
    angle_close(turned, transform(y, omega), True)
    np.testing.assert_allclose(log_det_turned, log_det, atol=ATOL)


@pytest.mark.parametrize("name", [n for n, row in ROWS.items() if row.symmetry])
def test_other_symmetries(name):
    row, forward = ROWS[name], case(name).forward
    x = field(row)
    y, log_det, _ = forward(x)
    z, log_det_z, _ = forward(row.symmetry(x))
    angle_close(z, row.symmetry(y), row.gauge)
    np.testing.assert_allclose(log_det_z, log_det, atol=ATOL)


COMPOSED = ["stripes staples", "coarse-to-fine flow", "scanned scalar"]


@pytest.mark.parametrize("name", COMPOSED)
def test_batches_equal_loops_on_either_axis(name):
    row, c = ROWS[name], case(name)
    x = jnp.stack([field(row, seed) for seed in range(3)])
    want = jnp.stack([c.forward(v)[0] for v in x])
    first, _ = jax.jit(jax.vmap(c.f.forward_and_log_det))(x)
    last, _ = jax.jit(jax.vmap(c.f.forward_and_log_det, in_axes=-1, out_axes=(-1, 0)))(jnp.moveaxis(x, 0, -1))
    angle_close(first, want, row.gauge)
    angle_close(jnp.moveaxis(last, -1, 0), want, row.gauge)


@pytest.mark.parametrize(
    ("name", "wrapper"),
    # the coarse-to-fine flow is a chain of its own
    [pair for pair in itertools.product(COMPOSED, ("plain", "inverse", "chain")) if pair != ("coarse-to-fine flow", "chain")],
)
def test_batch_methods_equal_loops(name, wrapper):
    """What is handed down through chains, scans and inverses with the batch last is what f gives for single configurations."""
    row, c = ROWS[name], case(name)
    f = {"plain": c.f, "inverse": Inverse(c.f), "chain": Chain([c.f, Inverse(c.f), c.f])}[wrapper]
    singles = (c.inverse, c.forward) if wrapper == "inverse" else (c.forward, c.inverse)
    x = jnp.stack([field(row, seed) for seed in range(3)], -1)
    for batched, single in zip((f.forward_batch, f.inverse_batch), singles, strict=True):
        y, log_det = jit(batched)(x)
        for i in range(3):
            yi, log_det_i, *_ = single(x[..., i])
            angle_close(y[..., i], yi, row.gauge)
            np.testing.assert_allclose(log_det[i], log_det_i, atol=1e-9)


def test_scan_equals_chain_and_rematerialisation_changes_nothing():
    layers = [rough(ScalarCoupling(SQUARE, key=KEY, parity=i % 2, hidden=(3,), dtype=F64), i) for i in range(3)]
    x = field(ROWS["affine"])
    want, log_det = jit(Chain(layers).forward_and_log_det)(x)
    assert Chain(layers[:1]).forward(x).shape == x.shape
    for remat in (False, True):
        got, log_det_got = jit(Scan(layers, remat).forward_and_log_det)(x)
        np.testing.assert_allclose(got, want, atol=ATOL)
        np.testing.assert_allclose(log_det_got, log_det, atol=ATOL)

    def loss(remat):
        return jit(jax.grad(lambda v: Scan(layers, remat).forward_and_log_det(v)[1]))(x)

    np.testing.assert_allclose(loss(True), loss(False), atol=ATOL)
    with pytest.raises(ValueError, match="Chain"):
        Scan([layers[0], ScalarCoupling(SQUARE, key=KEY, hidden=(3,), transform="spline", bins=4, dtype=F64)])


def test_depth_does_not_add_to_the_program():
    """The traced program of 12 blocks is as long as that of 3: layers are scanned, not unrolled."""

    def equations(blocks):
        f = u1_coupling_flow(SQUARE, key=KEY, blocks=blocks, **SMALL)
        return str(jax.make_jaxpr(f.forward_and_log_det)(field(ROWS["scanned stripes"]))).count("\n")

    assert equations(12) == equations(3)


def test_single_precision_round_trip():
    f = rough(u1_coupling_flow(Geometry((8, 8)), key=KEY, blocks=4, conv=(4,), hidden=(8,)), scale=0.1)
    x = jax.random.uniform(jax.random.key(2), (2, 8, 8), jnp.float32, -3, 3)
    y, log_det = jit(f.forward_and_log_det)(x)
    assert y.dtype == jnp.float32 and log_det.dtype == jnp.float64  # a sum over the lattice
    back, log_det_back = jit(f.inverse_and_log_det)(y)
    assert float(jnp.abs(wrap(back - x)).max()) < 2e-3
    assert abs(float(log_det + log_det_back)) < 2e-2


@pytest.mark.optimised
def test_concentrated_flow_in_single_precision():
    """The density that a float32 flow claims, forward and backward, is that of the same flow in float64 at the same links."""
    geometry = Geometry((8, 8))
    single = u1_coupling_flow(geometry, key=KEY, mask="coarse-to-fine", blocks=0, bins=32, hidden=(8,))
    # as after training at beta = 7, where halves of n plaquettes have a concentration of about 28 / n
    kappa = [jnp.asarray(2.8 / np.prod(layer.view.block), jnp.float32) for layer in single.bijections]
    single = eqx.tree_at(lambda f: [x.concentration for x in f.bijections], single, kappa)
    double = jax.tree.map(lambda x: x.astype(F64) if eqx.is_inexact_array(x) else x, single)
    x = jax.random.uniform(jax.random.key(2), (64, 2, *geometry.shape), jnp.float32, -np.pi, np.pi)
    y, forward = jax.jit(jax.vmap(lambda v: single.forward_and_log_det(v)))(x)
    _, backward = jax.jit(jax.vmap(lambda v: single.inverse_and_log_det(v)))(y)
    _, reference = jax.jit(jax.vmap(lambda v: double.inverse_and_log_det(v)))(y.astype(F64))
    assert float(reference.std()) > 1  # far from the identity
    for log_q in (-forward, backward):
        assert float(jnp.abs(log_q - reference).max()) < 1e-3


@pytest.mark.parametrize("c", [[0.0, 0.0], [14.0, -2.0, 1.0], [-3.0, 4.0, 2.0, -1.0]])
def test_harmonic_map_has_the_density_it_is_given(c):
    cosines, bins = jnp.asarray(c, F64), 48
    y = jnp.linspace(-np.pi, np.pi, 4001)[:-1]
    wanted = sum(ck * np.cos(k * np.asarray(y)) for k, ck in enumerate(c, start=1))
    wanted = np.exp(wanted - wanted.max()) / np.mean(np.exp(wanted - wanted.max()))
    coefficients = jnp.broadcast_to(cosines[:, None], (len(c), y.size))
    x, log_slope = harmonic_inverse(y, coefficients, bins)
    density = np.exp(log_slope)
    assert abs(density.mean() - 1) < 1e-6
    divergence = np.mean(density * np.where(density > 1e-12, np.log(density / wanted), 0))
    assert abs(divergence) < 1e-3
    back, log_slope_back = harmonic_forward(x, coefficients, bins)
    bulk = np.asarray(density) > 1e-6  # where it is smaller, x does not resolve y
    assert np.abs(wrap(back - y))[bulk].max() < 1e-8
    np.testing.assert_allclose(log_slope_back[bulk], -log_slope[bulk], atol=1e-6)
    np.testing.assert_allclose(harmonic_inverse(-y, coefficients, bins)[0][1:], -x[1:], atol=1e-12)  # odd


def test_circular_spline_is_a_circle_diffeomorphism():
    raw = jax.random.normal(KEY, (2 * 6 + 1,), F64)
    x = jnp.linspace(-np.pi, np.pi, 2001)
    y, log_slope = jax.jit(jax.vmap(lambda v: circular_forward(v, raw, 6)))(x)
    steps = np.asarray(wrap(jnp.diff(y)))
    assert (steps > 0).all()
    assert abs(steps.sum() - 2 * np.pi) < 1e-9  # winds once
    slope = jax.jit(jax.vmap(jax.grad(lambda v: circular_forward(v, raw, 6)[0])))(x[1:-1])
    np.testing.assert_allclose(log_slope[1:-1], jnp.log(slope), atol=1e-9)
    assert abs(float(log_slope[0] - log_slope[-1])) < 1e-9  # derivative continuous across the cut
    edges = jnp.asarray([-np.pi, np.pi, 0.0, 1e-300])
    back, _ = jax.jit(jax.vmap(lambda v: circular_inverse(circular_forward(v, raw, 6)[0], raw, 6)))(edges)
    angle_close(back, edges, True)


def test_zero_parameters_are_the_identity():
    x = jnp.linspace(-3, 3, 7)
    y, log_slope = jax.vmap(lambda v: circular_forward(v, jnp.zeros(9), 4))(x)
    np.testing.assert_allclose(y, x, atol=1e-12)
    np.testing.assert_allclose(log_slope, 0, atol=1e-12)


def test_interval_spline_is_smooth_at_its_ends():
    raw = jax.random.normal(KEY, (11,), F64)
    w, h, s = raw[:4], raw[4:8], raw[8:]
    x = jnp.asarray([-5.0, -2.0 - 1e-9, -2.0 + 1e-9, -2.0, 0.3, 2.0 - 1e-9, 2.0 + 1e-9, 4.0])
    y, log_slope = jax.vmap(lambda v: interval_forward(v, w, h, s, 2.0))(x)
    np.testing.assert_allclose(y[jnp.asarray([0, 3, 7])], x[jnp.asarray([0, 3, 7])], atol=1e-12)
    np.testing.assert_allclose(log_slope[jnp.asarray([1, 2, 5, 6])], 0, atol=1e-6)
    back, minus = jax.vmap(lambda v: interval_inverse(v, w, h, s, 2.0))(y)
    np.testing.assert_allclose(back, x, atol=1e-9)
    np.testing.assert_allclose(minus, -log_slope, atol=1e-7)
