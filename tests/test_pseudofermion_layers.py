"""Conditional linear flows against dense matrices, symmetries, finite differences; even/odd targets, batches, precision."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts import close, cut, gauge_transform, pool
from fermion_cases import links_of, quick_jit
from jax.extend.core import jaxprs_in_params

from latflow.actions import Monomial
from latflow.dirac import WilsonFermion, gamma
from latflow.flows import IdentityConditional, Product, PseudofermionFlow
from latflow.groups import SUN, U1, AbstractGroup, RealLine
from latflow.lattice import Geometry, Halves, shift
from latflow.nets import PlaquetteContext

CHANNELS = 3


@dataclasses.dataclass(frozen=True)
class Case:
    """One flow, with parameters large enough that D~ is far from 1."""

    group: AbstractGroup
    shape: tuple[int, ...]
    partition: Any
    even_odd: bool
    num_layers: int
    n_pt: int
    H: int = 2
    coordinates: bool = False
    boundary: tuple[float, ...] | None = None
    rematerialise: bool = False
    gain: float = 1.0

    @property
    def geometry(self):
        return Geometry(self.shape)

    @property
    def spinor_shape(self):
        sites = Halves(self.geometry).shape if self.even_odd else self.shape
        return (gamma.num_spins(len(self.shape)), self.group.Nc, *sites)

    def field(self, seed=0):
        return cut(self.group, pool(self.group, seed)[0], (len(self.shape), *self.shape))

    def chi(self, seed, *batch):
        rng, shape = np.random.default_rng(seed), (*self.spinor_shape, *batch)
        return jnp.asarray(rng.normal(size=shape) + 1j * rng.normal(size=shape))


CASES = {
    "u1 spatial": Case(U1(), (4, 2), "spatial", False, 2, 3),
    "u1 spin odd": Case(U1(), (3, 4), "spin", False, 2, 1, boundary=(0.7, -1.9)),
    "u1 alternating": Case(U1(), (2, 4), "alternating", False, 4, 2, H=3, coordinates=True),
    "u1 even": Case(U1(), (6, 4), "spatial", True, 2, 3, coordinates=True),
    "u1 long": Case(U1(), (2, 8), "spatial", True, 2, 2, coordinates=True),
    "u1 even alternating": Case(U1(), (4, 4), "alternating", True, 4, 2, rematerialise=True),
    "su2 even": Case(SUN(2), (4, 2), "spatial", True, 2, 2),
    "su3 alternating": Case(SUN(3), (2, 4), "alternating", False, 4, 2),
    "su3 even spin": Case(SUN(3), (4, 2), "spin", True, 2, 2),
    "u1-4d spin": Case(U1(), (2, 1, 2, 3), "spin", False, 10, 1, gain=0.3),
    "su2-4d rotating": Case(SUN(2), (2, 2, 2, 2), "rotating", False, 12, 1, gain=0.3),
    "u1-4d even": Case(U1(), (2, 2, 2, 4), "spatial", True, 8, 2, gain=0.3),
}


@functools.cache
def model_of(name, gain=None, bias_std=0.1, dtype=jnp.float64):
    """(trunk, flow)."""
    c = CASES[name]
    gain = c.gain if gain is None else gain
    k1, k2 = jax.random.split(jax.random.key(5))
    trunk = PlaquetteContext(c.group, c.geometry, (CHANNELS,), key=k1, coordinates=c.coordinates, gain=1.5, dtype=dtype)
    options = {"partition": c.partition, "even_odd": c.even_odd, "n_pt": c.n_pt, "H": c.H, "boundary": c.boundary}
    options |= {"gain": gain, "bias_std": bias_std, "rematerialise": c.rematerialise, "dtype": dtype}
    return trunk, PseudofermionFlow(c.group, c.geometry, CHANNELS, c.num_layers, key=k2, **options)


def bind(model, field):
    trunk, flow = model
    return flow.bind(field, trunk(field))


@quick_jit
def _dense(dynamic, static, field, chi):
    bound = bind(eqx.combine(dynamic, static.value), field)
    return bound.matrix(), bound.log_abs_det, bound.mv(chi), bound.inverse(chi)


@dataclasses.dataclass(frozen=True)
class Static:
    """What is not an array of a model, to be an argument of a compiled function."""

    value: Any


jax.tree_util.register_pytree_node(Static, lambda s: ((), s.value), lambda value, _: Static(value))


def results(name, field=None, chi=None, model=None):
    """(matrix, log |det|, mv(chi), inverse(chi)), compiled once for each case."""
    c = CASES[name]
    dynamic, static = eqx.partition(model_of(name) if model is None else model, eqx.is_array)
    out = _dense(dynamic, Static(static), c.field() if field is None else field, c.chi(1) if chi is None else chi)
    return jax.tree.map(np.asarray, out)


@pytest.mark.parametrize("name", CASES)
def test_the_map_is_its_matrix(name):
    """Complex linearity, the determinant, and the inverse, from a dense matrix that is far from 1."""
    c, (matrix, log_abs_det, image, inverse) = CASES[name], results(name)
    chi = np.ravel(c.chi(1))
    close(np.ravel(image), matrix @ chi, 1e-11)
    close(log_abs_det, np.linalg.slogdet(matrix)[1], 1e-10)
    close(matrix @ np.ravel(inverse), chi, 1e-9)
    off = matrix - np.diag(np.diag(matrix))
    assert log_abs_det.dtype == np.float64 and abs(log_abs_det) > 0.01 and np.abs(off).max() > 0.05
    # every component has been active: no row is that of the identity
    assert np.abs(matrix - np.eye(len(matrix))).max(1).min() > 1e-4


@pytest.mark.parametrize("name", CASES)
def test_gauge_equivariance(name):
    """D~[U^Omega] = Omega D~[U] Omega^dagger, with the same determinant."""
    c = CASES[name]
    group, Nd = c.group, len(c.shape)
    omega = cut(group, pool(group, 2)[0], c.shape)
    turned = results(name, quick_jit(gauge_transform, static_argnums=(0, 3))(group, c.field(), omega, Nd))
    m = links_of(group, omega)
    if c.even_odd:
        m = np.asarray(Halves(c.geometry).split(jnp.asarray(m))[0])
    m = m.reshape(len(m), len(m), -1)
    size = len(turned[0])
    big = np.einsum("st,abx,xy->saxtby", np.eye(c.spinor_shape[0]), m, np.eye(m.shape[2])).reshape(size, size)
    matrix, log_abs_det, *_ = results(name)
    close(turned[0], big @ matrix @ big.conj().T, 1e-11)
    close(turned[1], log_abs_det, 1e-11)


def translated(name, steps):
    """(T D~[U] T^dagger, D~[T U]) of a translation by `steps`, with the sign of the boundary in time."""
    c = CASES[name]
    Nd, V = len(c.shape), c.geometry.volume
    field, sign = c.field(), np.ones(c.shape)
    to = np.arange(V).reshape(c.shape)
    for mu, n in enumerate(steps):
        field = shift(field, mu, Nd, n)
        to = np.roll(to, -n, mu)
    sign[np.indices(c.shape)[0] + steps[0] >= c.shape[0]] = -1
    site = np.zeros((V, V))
    site[np.arange(V), to.reshape(-1)] = sign.reshape(-1)
    if c.even_odd:
        even = np.asarray(Halves(c.geometry).split(jnp.arange(V).reshape(c.shape))[0]).reshape(-1)
        site = site[np.ix_(even, even)]
    T = np.kron(np.eye(c.spinor_shape[0] * c.spinor_shape[1]), site)
    return T @ results(name)[0] @ T.T, results(name, field)[0]


@pytest.mark.parametrize(
    ("name", "steps"),
    [("u1 spatial", (2, 0)), ("u1 spatial", (1, 1)), ("su2 even", (2, 0)), ("u1 even alternating", (0, 2))]
    + [("su3 even spin", (1, 1)), ("su3 alternating", (1, 3))],
)
def test_translations_that_keep_the_partition(name, steps):
    """Antiperiodic in time: what leaves the lattice there comes back with the other sign."""
    close(*translated(name, steps), 1e-11)


def test_translations_that_change_partition_or_coordinates_do_change_the_map():
    for name, steps in (("u1 spatial", (1, 0)), ("u1 alternating", (0, 2)), ("u1 even", (2, 0))):
        expected, found = translated(name, steps)
        assert np.abs(expected - found).max() > 1e-3


def test_coordinates_repeat_every_four_sites():
    close(*translated("u1 long", (0, 4)), 1e-11)
    expected, found = translated("u1 long", (0, 2))
    assert np.abs(expected - found).max() > 1e-3


@pytest.mark.parametrize("name", ["u1 even", "su2 even", "u1-4d even", "u1 even alternating"])
def test_even_sites_learn_of_other_even_sites(name):
    """Through odd ones, which are neither in nor out: the matrix connects active sites with frozen ones two steps away."""
    c, (matrix, *_) = CASES[name], results(name)
    n, sites = c.spinor_shape[0] * c.spinor_shape[1], c.spinor_shape[2:]
    strength = np.abs(matrix.reshape(n, *sites, n, *sites)).max((0, 1 + len(sites)))
    even = [np.asarray(Halves(c.geometry).split(jnp.asarray(x))[0]) for x in np.indices(c.shape)]
    where = {tuple(int(x[i]) for x in even): i for i in np.ndindex(*sites)}
    for x, i in where.items():
        # a step in time and one in space change the parity of x_0, which separates active sites from frozen ones
        for s, t in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            y = ((x[0] + s) % c.shape[0], (x[1] + t) % c.shape[1], *x[2:])
            assert strength[i + where[y]] > 1e-3, (x, y)


@pytest.mark.parametrize("name", ["u1 even", "su3 alternating"])
def test_near_the_identity_at_first(name):
    """With the initialisations of both papers."""
    c = CASES[name]
    for gain, bias_std in ((0.5, 0.0), (0.3, 0.05)):
        matrix, log_abs_det, *_ = results(name, model=model_of(name, gain, bias_std))
        difference = np.abs(matrix - np.eye(len(matrix)))
        assert 1e-4 < difference.max() < 0.6 and np.sqrt(np.mean(difference.sum(1) ** 2)) < 1.0
        assert abs(log_abs_det) < 0.1 * len(matrix)
    assert len(matrix) == np.prod(c.spinor_shape)


# ---- derivatives, batches, precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["u1 even alternating", "su2 even"])
def test_gradients_of_parameters_and_links(name):
    """Of the image, the preimage and the determinant, against central differences of fourth order."""
    c = CASES[name]
    dynamic, static = eqx.partition(model_of(name), eqx.is_inexact_array)
    chi, weight = c.chi(1), c.chi(2)
    direction = cut(c.group, pool(c.group, 0)[1], (len(c.shape), *c.shape))
    rng = np.random.default_rng(3)
    tangent = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), dynamic)

    def value(dynamic, field):
        bound = bind(eqx.combine(dynamic, static), field)
        overlap = jnp.sum(jnp.real(jnp.conj(weight) * (bound.mv(chi) + 0.3 * bound.inverse(chi))))
        return overlap + 2 * bound.log_abs_det

    def moved(step, both):
        p = jax.tree.map(lambda a, b: a + step * both[0] * b, dynamic, tangent)
        return value(p, c.group.move(step * both[1] * direction, c.field()))

    @quick_jit
    def run(field):
        gradient = jax.grad(value)(dynamic, field)
        along = sum(jnp.sum(a * b) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(tangent), strict=True))
        force = c.group.gradient(lambda field: value(dynamic, field), field)[1]
        return along, c.group.inner(force, direction)

    shifted, step = quick_jit(moved), 1e-3
    for both, slope in zip((jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])), run(c.field()), strict=True):
        f = [shifted(s * step, both) for s in (-2, -1, 1, 2)]
        close(slope, (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step), 1e-6)
        assert abs(slope) > 1e-2


@pytest.mark.parametrize("name", ["u1 even", "su3 alternating"])
def test_batches_of_configurations_and_draws(name):
    c, model = CASES[name], model_of(name)
    fields, chi = jnp.stack([c.field(seed) for seed in range(2)], -1), c.chi(4, 3, 2)

    def one(field, chi):
        bound = bind(model, field)
        phi = jax.vmap(bound.mv, -1, -1)(chi)
        return phi, jax.vmap(bound.inverse, -1, -1)(phi), bound.log_abs_det

    phi, back, log_abs_det = quick_jit(jax.vmap(one, -1, (-1, -1, 0)))(fields, chi)
    close(back, chi, 1e-9)
    for i in range(2):
        matrix, log, *_ = results(name, fields[..., i])
        close(log_abs_det[i], log, 1e-11)
        for d in range(3):
            close(np.ravel(phi[..., d, i]), matrix @ np.ravel(chi[..., d, i]), 1e-10)


def _largest(jaxpr, primitive):
    """The sizes of all results of a primitive, through inner programs."""
    sizes = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == primitive:
            sizes += [out.aval.size for out in equation.outvars]
        for inner in jaxprs_in_params(equation.params):
            sizes += _largest(inner, primitive)
    return sizes


def test_draws_share_the_convolutions_and_depth_costs_no_compilation():
    """Matrix products are of one configuration whatever the number of draws, and programs are equally long for any depth."""
    c = CASES["u1 even"]

    def program(model, draws):
        def run(field, chi):
            return jax.vmap(bind(model, field).mv, -1, -1)(chi)

        return jax.make_jaxpr(run)(c.field(), c.chi(0, draws)).jaxpr

    one, many = (_largest(program(model_of("u1 even"), draws), "dot_general") for draws in (1, 7))
    assert one == many and one
    trunk, _ = model_of("u1 even")
    lengths = []
    for depth in (4, 16):
        flow = PseudofermionFlow(c.group, c.geometry, CHANNELS, depth, key=jax.random.key(0), n_pt=2)
        lengths.append(len(str(program((trunk, flow), 1)).splitlines()))
    assert lengths[0] == lengths[1]


def test_precision_follows_the_field():
    """Spinors and their maps by abstract evaluation, for parameters of either precision; values in single precision."""
    for name, single in (("u1 even", jnp.float32), ("su3 alternating", jnp.complex64), ("u1-4d spin", jnp.float32)):
        c = CASES[name]
        for parameters in (jnp.float32, jnp.float64):
            model = model_of(name, dtype=parameters)

            def run(field, chi, model=model):
                bound = bind(model, field)
                return bound.mv(chi), bound.inverse(chi), bound.log_abs_det, jnp.zeros(bound.shape, bound.dtype)

            field, chi = c.field().astype(single), c.chi(1).astype(jnp.complex64)
            *spinors, log_abs_det, zero = jax.eval_shape(run, field, chi)
            assert {s.dtype for s in (*spinors, zero)} == {jnp.dtype(jnp.complex64)} and log_abs_det.dtype == jnp.float64
            assert {s.shape for s in (*spinors, zero)} == {c.spinor_shape}
    c = CASES["u1 even"]
    _, log, image, inverse = results("u1 even", c.field().astype(jnp.float32), c.chi(1).astype(jnp.complex64))
    exact = results("u1 even")
    assert image.dtype == np.complex64
    close(log, exact[1], 1e-4)
    close(image, exact[2], 1e-4)
    close(inverse, exact[3], 1e-3)


# ---- the interface ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["u1 even", "u1 spatial", "u1-4d even", "su3 alternating"])
def test_spinors_are_those_of_the_monomials(name):
    c = CASES[name]
    monomial = Monomial(WilsonFermion(c.geometry, c.group, 0.1), even_odd=c.even_odd)

    def shapes(field):
        identity = IdentityConditional(monomial.fermion, c.even_odd).bind(field)
        maps = (bind(model_of(name), field), identity)
        return monomial.noise(jax.random.key(0), field), *(jnp.zeros(m.shape, m.dtype) for m in maps)

    noise, *found = jax.eval_shape(shapes, c.field())
    assert all((f.shape, f.dtype) == (noise.shape, noise.dtype) for f in found)


def test_products():
    """D~_1 D~_2: the last factor acts first; the identity changes nothing."""
    c, (trunk, flow) = CASES["su2 even"], model_of("su2 even")
    other = model_of("su2 even", gain=2.0)[1]
    identity = IdentityConditional(WilsonFermion(c.geometry, c.group, 0.1))
    product = Product([flow, identity, other])

    @quick_jit
    def run(field, chi):
        features = trunk(field)
        bound = product.bind(field, features)
        factors = [f.bind(field, features) for f in (flow, identity, other)]
        return bound.matrix(), bound.log_abs_det, bound.inverse(bound.mv(chi)), [f.matrix() for f in factors]

    matrix, log_abs_det, back, factors = run(c.field(), c.chi(1))
    close(factors[1], np.eye(len(matrix)))
    close(matrix, factors[0] @ factors[2], 1e-11)
    close(log_abs_det, np.linalg.slogdet(matrix)[1], 1e-10)
    close(back, c.chi(1), 1e-9)
    with pytest.raises(ValueError, match="same spinors"):
        Product([identity, IdentityConditional(identity.fermion, False)]).bind(c.field(), None)
    with pytest.raises(ValueError, match="at least one"):
        Product([])


def test_errors():
    def build(group: AbstractGroup = U1(), shape=(4, 4), num_layers=2, **options: Any):
        return PseudofermionFlow(group, Geometry(shape), CHANNELS, num_layers, key=jax.random.key(0), **options)

    refused: list[tuple[str, dict[str, Any]]] = [
        ("n_pt = 1", {"n_pt": 1}),
        ("n_pt = 0", {"n_pt": 0, "even_odd": False}),
        (r"\(3, 4\)", {"shape": (3, 4), "even_odd": False}),
        (r"\(4, 5\)", {"shape": (4, 5), "partition": "spin"}),
        ("scalar", {"group": RealLine()}),
        ("two and four", {"shape": (2, 2, 2)}),
        ("angle", {"boundary": (0.0,)}),
        ("multiple of 2, .* got 3", {"partition": "alternating", "num_layers": 3}),
        ("multiple of 6", {"partition": "rotating"}),
        ("positive", {"num_layers": 0}),
    ]
    for message, options in refused:
        with pytest.raises(ValueError, match=message):
            build(**options)
    with pytest.raises(ValueError, match="features"):
        build().bind(jnp.zeros((2, 4, 4)), None)
    with pytest.raises(ValueError, match="even extents"):
        IdentityConditional(WilsonFermion(Geometry((3, 4)), U1(), 0.1))
