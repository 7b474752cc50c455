"""Incomplete decompositions against numpy's dense ones, the exact factors of M + mu, and finite differences."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts import close, cut, gauge_transform, pool
from fermion_cases import field_of, quick_jit, reference

from latflow.actions import Monomial
from latflow.dirac import StaggeredYukawa, WilsonFermion, WilsonYukawa
from latflow.flows import IncompleteFactor
from latflow.flows.elimination_plan import Order, plan
from latflow.flows.incomplete import Quotient
from latflow.groups import SUN, U1
from latflow.lattice import Geometry, Halves

FLAT, HYPER = Geometry((4, 6)), Geometry((2, 2, 2, 4))
SCHWINGER = WilsonFermion(FLAT, U1(), 0.22)
FERMIONS = {
    "U(1)": SCHWINGER,
    "clover": WilsonFermion(Geometry((4, 4)), SUN(2), 0.15, csw=1.1, boundary=(0.3, 0.1)),
    "Yukawa": WilsonYukawa(FLAT, 0.2, 0.6),
    "staggered": StaggeredYukawa(FLAT, 0.2, 0.5),
    "SU(3)": WilsonFermion(HYPER, SUN(3), 0.08),
    "staggered 4D": StaggeredYukawa(HYPER, 0.3, 0.5),
}
CASES = [(name, True) for name in FERMIONS] + [(name, False) for name in ("U(1)", "clover", "staggered")]
MU, HEAVIER = 0.07, 0.4


@functools.cache
def run(fermion, reach, even_odd=True, order: Order = "nested"):
    """What the map of a ratio, and its numerator, say about themselves, of any field."""
    conditional = IncompleteFactor(Monomial(fermion, MU, HEAVIER, even_odd), reach, order)

    @quick_jit
    def of(field):
        ratio = conditional.bind(field)
        assert isinstance(ratio, Quotient)
        a, matrix = ratio.numerator, ratio.matrix()
        back = jax.vmap(ratio.inverse, -1, -1)(matrix.reshape(*ratio.shape, -1)).reshape(matrix.shape)
        return {"a": a.matrix(), "ratio": matrix, "back": back, "log a": a.log_abs_det, "log ratio": ratio.log_abs_det}

    return of


@functools.cache
def dense(fermion, even_odd):
    """(D, gamma5, coordinates of the sites) of `field_of(fermion)`, the operator written by the tests themselves."""
    D = reference(fermion, field_of(fermion))
    geometry, n = fermion.geometry, len(D) // fermion.geometry.volume
    x = geometry.coordinates().reshape(geometry.Nd, -1)
    parity = x.sum(0) % 2
    sign = (-1.0) ** parity if isinstance(fermion, StaggeredYukawa) else np.ones(geometry.volume)
    chirality = np.ones(1) if isinstance(fermion, StaggeredYukawa) else np.repeat([1.0, -1.0], n // 2)
    g5 = (chirality[:, None] * sign[None]).reshape(-1)
    if even_odd:
        e, o = (np.concatenate([np.flatnonzero(parity == p) + i * geometry.volume for i in range(n)]) for p in (0, 1))
        D = D[np.ix_(e, e)] - D[np.ix_(e, o)] @ np.linalg.solve(D[np.ix_(o, o)], D[np.ix_(o, e)])
        g5, x = g5[e], x[:, parity == 0]
    return D, np.diag(g5), x


def class_of(x, order, full, extents):
    """Classes are eliminated in the order of these numbers."""
    if order == "natural":
        return ()
    if order == "pairs":
        return (x[0] % 2,)
    out = [-(sum(x) % 2)] if full else []
    while not any(n % 2 for n in extents) and not sum(x) % 2:
        out += [*(-(x % 2)), -(sum(x // 2) % 2)]
        if any(out[-len(x) - 1 :]):
            break
        x, extents = x // 2, [n // 2 for n in extents]
    return tuple(out)


def incomplete(F, x, extents, reach, order):
    """L U of the twisted operator, by the outer-product form of the elimination on a dense masked matrix."""
    V = x.shape[1]
    n = len(F) // V
    full = bool((x.sum(0) % 2).any())
    group = [class_of(x[:, s], order, full, extents) for s in range(V)]
    sites = np.array(sorted(range(V), key=lambda s: (group[s], *x[:, s])))
    number = np.array([sorted(set(group)).index(g) for g in group])
    reaches = np.array([*reach, *[reach[-1]] * V]) if isinstance(reach, tuple) else np.full(V, reach)
    d = np.abs(x[:, :, None] - x[:, None])
    extents = np.array(extents)[:, None, None]
    kept = np.minimum(d, extents - d).sum(0) <= reaches[np.minimum(number[:, None], number[None])]
    kept = np.kron(kept[np.ix_(sites, sites)], np.ones((n, n), bool))
    index = (np.arange(n)[None] * V + sites[:, None]).reshape(-1)
    B = F[np.ix_(index, index)] * kept
    for k in range(0, n * V, n):
        here, rest = slice(k, k + n), slice(k + n, None)
        B[rest, here] = B[rest, here] @ np.linalg.inv(B[here, here])
        B[rest, rest] -= (B[rest, here] @ B[here, rest]) * kept[rest, rest]
    below, back = np.kron(np.tril(np.ones((V, V)), -1), np.ones((n, n))), np.argsort(index)
    product = np.asarray((B * below + np.eye(n * V)) @ (B * (1 - below)))
    return product[np.ix_(back, back)]


@pytest.mark.parametrize(("name", "even_odd"), [("U(1)", True), ("clover", False), ("staggered", True), ("SU(3)", True)])
def test_complete_decomposition_is_exact(name, even_odd):
    fermion = FERMIONS[name]
    (D, g5, _), got = dense(fermion, even_odd), run(fermion, None, even_odd)(field_of(fermion))
    M, one = D @ D.conj().T, np.eye(len(D))
    close(got["a"] @ got["a"].conj().T, M + MU * one, 1e-11)
    close(got["a"], D + 1j * np.sqrt(MU) * g5, 1e-11)
    close(got["ratio"] @ got["ratio"].conj().T, np.linalg.solve(M + HEAVIER * one, M + MU * one), 1e-10)
    log_det = [np.linalg.slogdet(M + mu * one)[1] / 2 for mu in (MU, HEAVIER)]
    close(got["log a"], log_det[0])
    close(got["log ratio"], log_det[0] - log_det[1])
    # what actions say about the same monomials
    close(2 * got["log ratio"], quick_jit(Monomial(fermion, MU, HEAVIER, even_odd).log_det)(field_of(fermion)))


@pytest.mark.parametrize(("name", "even_odd", "reach", "order"), [(*case, 2, "nested") for case in CASES] + [
    ("U(1)", True, 2, "natural"), ("U(1)", True, 0, "pairs"), ("U(1)", False, 3, "pairs"), ("U(1)", True, (2, 4), "nested"),
    ("U(1)", False, (1, 2, 3, 4), "nested"),
])  # fmt: skip
def test_truncated_decomposition(name, even_odd, reach, order):
    fermion = FERMIONS[name]
    (D, g5, x), got = dense(fermion, even_odd), run(fermion, reach, even_odd, order)(field_of(fermion))
    a, b = (incomplete(D + 1j * np.sqrt(mu) * g5, x, fermion.geometry.shape, reach, order) for mu in (MU, HEAVIER))
    if name != "staggered 4D":  # on extents of two its fill cancels
        assert np.abs(a - D - 1j * np.sqrt(MU) * g5).max() > 1e-3, "nothing was dropped"
    close(got["a"], a, 1e-11)
    close(got["ratio"], a @ np.linalg.inv(b), 1e-10)
    close(got["log a"], np.linalg.slogdet(a)[1])
    close(got["log ratio"], np.linalg.slogdet(got["ratio"])[1])
    close(got["back"], np.eye(len(D)), 1e-11)


@pytest.mark.parametrize("name", ["U(1)", "SU(3)"])
def test_gauge_equivariance(name):
    fermion = FERMIONS[name]
    group, geometry, field = fermion.group, fermion.geometry, field_of(fermion)
    omega = cut(group, pool(group, 2)[0], geometry.shape)
    turned = run(fermion, 2)(gauge_transform(group, field, omega, geometry.Nd))
    plain = run(fermion, 2)(field)
    even = Halves(geometry).split(group.embed(omega))[0]
    rotation = np.asarray(even if group.colour_shape else even[None, None])
    Nc, V = len(rotation), rotation[0, 0].size
    sites = np.einsum("abx,xy->axby", rotation.reshape(Nc, Nc, V), np.eye(V)).reshape(Nc * V, -1)
    G = np.kron(np.eye(len(plain["ratio"]) // len(sites)), sites)
    close(turned["ratio"], G @ plain["ratio"] @ G.conj().T, 1e-11)
    close(turned["log ratio"], plain["log ratio"])


@functools.cache
def schur_matrix(fermion):
    return quick_jit(lambda field: fermion.operator(field).schur().matrix())


def spread(fermion, reach, field):
    """|A - 1|^2 of A = D~^dagger C D~, C the inverse covariance of the ratio, and of the last monomial."""
    D, got = np.asarray(schur_matrix(fermion)(field)), run(fermion, reach)(field)
    M, one = D @ D.conj().T, np.eye(len(D))
    C = [one + (HEAVIER - MU) * np.linalg.inv(M + MU * one), np.linalg.inv(M + MU * one)]
    A = [np.asarray(f).conj().T @ c @ f for f, c in zip((got["ratio"], got["a"]), C, strict=True)]
    return [np.sum((np.linalg.eigvalsh(a) - 1) ** 2) for a in A]


def test_larger_reach_is_closer():
    geometry = Geometry((6, 6))
    fermion = WilsonFermion(geometry, U1(), 0.22)
    fields = [0.5 * jax.random.normal(jax.random.key(k), (2, 6, 6)) for k in range(6)]
    means = np.array([np.mean([spread(fermion, reach, f) for f in fields], 0) for reach in (0, 2, 4, 6)])
    assert (means[1:] < 0.6 * means[:-1]).all(), means
    assert means[-1].max() < 1e-20


@functools.cache
def batched():
    """Everything that depends on the field, of many configurations and vectors; with its derivative."""
    conditional = IncompleteFactor(Monomial(SCHWINGER, MU, HEAVIER), (2, 4))

    def total(field, chi):
        bound = conditional.bind(field)
        there, back = jax.vmap(bound.mv, -1, -1)(chi), jax.vmap(bound.inverse, -1, -1)(chi)
        weight = 1 + jnp.arange(bound.size).reshape(*bound.shape, 1) / bound.size
        return bound.log_abs_det + jnp.sum(weight * (jnp.abs(there) ** 2 + jnp.real(back * chi)))

    return SimpleNamespace(one=quick_jit(total), many=quick_jit(jax.value_and_grad(_mapped_sum(total), has_aux=True)))


def _mapped_sum(total):
    def function(fields, chi):
        values = jax.vmap(total, (-1, -2))(fields, chi)
        return jnp.sum(values), values

    return function


def test_batches_and_derivative():
    fields = jnp.stack([field_of(SCHWINGER, seed) for seed in range(3)], -1)
    rng = np.random.default_rng(0)
    shape = (2, 1, 4, 3, 3, 2)
    chi = jnp.asarray(rng.normal(size=shape) + 1j * rng.normal(size=shape))
    (_, values), gradient = batched().many(fields, chi)
    close(values, [batched().one(fields[..., k], chi[..., k, :]) for k in range(3)])
    direction, step = jnp.asarray(rng.normal(size=fields.shape)), 1e-3
    difference = [batched().many(fields + s * step * direction, chi)[0][0] for s in (-2, -1, 1, 2)]
    slope = (difference[0] - 8 * difference[1] + 8 * difference[2] - difference[3]) / (12 * step)
    close(jnp.sum(gradient * direction), slope, 1e-8)


def test_derivative_of_larger_blocks():
    fermion = WilsonFermion(Geometry((2, 4)), SUN(2), 0.2)
    group, conditional = fermion.group, IncompleteFactor(Monomial(fermion, MU), 2)

    def function(field):
        bound = conditional.bind(field)
        image = bound.mv(jnp.ones(bound.shape, bound.dtype)) + bound.inverse(jnp.ones(bound.shape, bound.dtype))
        return bound.log_abs_det + jnp.sum(jnp.abs(image) ** 2)

    (u, x), value = pool(group, 0), quick_jit(function)
    gradient = quick_jit(lambda field: group.gradient(function, field)[1])(field_of(fermion))

    def moved(step):
        return value(cut(group, group.multiply(group.exp(step * x), u), (2, 2, 4)))

    step = 1e-3
    slope = (moved(-2 * step) - 8 * moved(-step) + 8 * moved(step) - moved(2 * step)) / (12 * step)
    close(group.inner(gradient, cut(group, x, (2, 2, 4))), slope, 1e-8)


def test_single_precision():
    field = field_of(SCHWINGER)
    double, single = run(SCHWINGER, 2)(field), run(SCHWINGER, 2)(field.astype(jnp.float32))
    assert single["ratio"].dtype == single["back"].dtype == jnp.complex64 and single["log ratio"].dtype == jnp.float64
    close(single["ratio"], double["ratio"], 1e-4)
    close(single["back"], np.eye(len(single["back"])), 1e-4)
    # the determinant is that of the map as it was computed
    close(single["log ratio"], np.linalg.slogdet(np.asarray(single["ratio"], complex))[1], 1e-5)


def test_singular_pivot_is_nan():
    fermion = StaggeredYukawa(Geometry((2, 2)), mass=0.0, g=1.0)
    conditional = IncompleteFactor(Monomial(fermion, 0.0, even_odd=False), 0)
    log_abs_det = quick_jit(lambda field: conditional.bind(field).log_abs_det)
    field = jnp.ones((2, 2))
    close(log_abs_det(field), 0.0)
    assert np.isnan(log_abs_det(field.at[0, 1].set(0.0)))
    assert np.isnan(log_abs_det(field.at[0, 1].set(jnp.inf)))


def test_bad_arguments():
    monomial = Monomial(SCHWINGER, MU)
    for reach in (-1, True, (2, -1), ()):
        with pytest.raises(ValueError, match="reach must be a distance"):
            IncompleteFactor(monomial, reach)
    with pytest.raises(ValueError, match="unknown order"):
        plan(FLAT, 2, "random")


def test_work_grows_with_the_volume_alone():
    for shape in ((8, 8), (8, 16), (16, 16)):
        tables = plan(Halves(Geometry(shape)), 2, "nested")
        assert tables.volume == np.prod(shape) // 2
        assert tables.site.shape == (tables.volume, 9) and tables.common.shape[1] < 9
