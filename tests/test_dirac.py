"""Dirac operators against matrices written site by site, their symmetries, even/odd complements and closed-form spectra."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg
from contracts import close, cut, gauge_transform, pool
from fermion_cases import (
    columns,
    distance,
    field_of,
    links_of,
    log_abs_det_and_sign,
    matrices,
    quick_jit,
    reference,
    uniform_flux,
)

from latflow.dirac import StaggeredYukawa, WilsonFermion, WilsonYukawa, dense, gamma
from latflow.groups import SUN, U1, RealLine
from latflow.lattice import Geometry, Halves, shift
from latflow.loops import plaquette
from latflow.solvers import inner

TWISTED = (0.7, -1.9)
# extents differ so that mixed-up directions show
FERMIONS = {
    "u1-2d": WilsonFermion(Geometry((2, 4)), U1(), 0.23),
    "u1-2d odd": WilsonFermion(Geometry((3, 4)), U1(), 0.21),
    "u1-2d periodic": WilsonFermion(Geometry((4, 2)), U1(), 0.19, boundary=(0.0, 0.0)),
    "su2-2d clover twisted": WilsonFermion(Geometry((2, 4)), SUN(2), 0.15, boundary=TWISTED, csw=1.3),
    "su3-2d": WilsonFermion(Geometry((4, 2)), SUN(3), 0.2),
    "su2-4d": WilsonFermion(Geometry((2, 2, 2, 4)), SUN(2), 0.12),
    "u1-4d clover": WilsonFermion(Geometry((2, 4, 2, 2)), U1(), 0.11, csw=1.7),
    "wilson-yukawa": WilsonYukawa(Geometry((4, 2)), 0.2, 0.7),
    "wilson-yukawa odd": WilsonYukawa(Geometry((3, 2)), 0.2, 0.7, boundary=TWISTED),
    "staggered-yukawa": StaggeredYukawa(Geometry((4, 2)), 0.3, 0.5),
    "staggered-yukawa twisted": StaggeredYukawa(Geometry((2, 4)), 0.3, 0.5, boundary=TWISTED),
}
GAUGE = [name for name, fermion in FERMIONS.items() if isinstance(fermion, WilsonFermion)]
EVEN = [name for name in FERMIONS if "odd" not in name]


@pytest.mark.parametrize("name", FERMIONS)
def test_the_matrix_is_the_formula(name):
    fermion, t = FERMIONS[name], matrices(FERMIONS[name])
    close(t.of["D"], reference(fermion, np.asarray(t.field)))


@pytest.mark.parametrize("name", FERMIONS)
def test_gamma5_relates_the_operator_to_its_adjoint(name):
    """On the whole lattice and on its even half: gamma5 D gamma5 = D^dagger."""
    t = matrices(FERMIONS[name])
    for D, g5 in (("D", "g5"), ("S", "S g5"))[: 1 + t.even]:
        D, g5 = t.of[D], t.of[g5]
        close(g5 @ D @ g5, D.conj().T)
        close(g5 @ g5, np.eye(len(g5)))
        close(g5, g5.conj().T)


@pytest.mark.parametrize("name", ["u1-2d", "staggered-yukawa"])
def test_adjoint_and_products(name):
    fermion, t = FERMIONS[name], matrices(FERMIONS[name])

    @quick_jit
    def run(field):
        operator = fermion.operator(field)
        both = (operator, operator.schur())
        return [(columns(o.adjoint, o), columns(o.hermitian, o), columns(o.normal, o)) for o in both]

    for (adjoint, hermitian, normal), D, g5 in zip(run(t.field), ("D", "S"), ("g5", "S g5"), strict=True):
        close(adjoint, t.of[D].conj().T)
        close(hermitian, t.of[D] @ t.of[g5])
        close(hermitian, np.asarray(hermitian).conj().T)
        close(normal, t.of[D] @ t.of[D].conj().T)
        close(hermitian @ hermitian, normal)


@pytest.mark.parametrize("name", EVEN)
def test_even_odd_complements_have_the_determinant_and_the_solution(name):
    """det D = det A_oo det D_sc with its sign (Eq. (34)), and the solution of D x = b is put together from both halves."""
    t = matrices(FERMIONS[name])
    log, sign = log_abs_det_and_sign(t.of["D"])
    log_schur, sign_schur = log_abs_det_and_sign(t.of["S"])
    close([t.of["rest"] + log_schur, t.of["sign"] * sign_schur], [log, sign], 1e-11)
    close(t.of["D"] @ t.of["x"].reshape(-1), t.b.reshape(-1), 1e-11)
    close(t.of["S assembled"], t.of["S"])
    assert t.of["rest"].dtype == np.float64


def test_signs_of_both_factors_appear():
    """Site terms of either sign: strong Yukawa couplings, of one and of two components per site."""
    signs = set()
    for fermion in (StaggeredYukawa(Geometry((4, 2)), -0.2, 0.8), WilsonYukawa(Geometry((4, 2)), 0.2, 9.0)):
        t = matrices(fermion)
        for seed in range(4):
            field = field_of(fermion, seed)
            found = t.run(field)
            log, sign = log_abs_det_and_sign(reference(fermion, np.asarray(field)))
            log_schur, sign_schur = log_abs_det_and_sign(found["S"])
            close([found["rest"] + log_schur, found["sign"] * sign_schur], [log, sign], 1e-9)
            signs.add((type(fermion), float(found["sign"])))
    assert signs == {(StaggeredYukawa, 1.0), (StaggeredYukawa, -1.0), (WilsonYukawa, 1.0)}  # that of two components is a square


@pytest.mark.parametrize("name", GAUGE)
def test_gauge_covariance(name):
    """D[U^Omega] = Omega D[U] Omega^dagger."""
    fermion, t = FERMIONS[name], matrices(FERMIONS[name])
    group, geometry = fermion.group, fermion.geometry
    omega = cut(group, pool(group, 2)[0], geometry.shape)
    turned = t.run(quick_jit(gauge_transform, static_argnums=(0, 3))(group, t.field, omega, geometry.Nd))["D"]
    m = links_of(group, omega)
    m = m.reshape(len(m), len(m), -1)
    Ns, V = gamma.num_spins(geometry.Nd), geometry.volume
    big = np.einsum("st,abx,xy->saxtby", np.eye(Ns), m, np.eye(V)).reshape(Ns * len(m) * V, -1)
    close(turned, big @ t.of["D"] @ big.conj().T)


@pytest.mark.parametrize("name", ["u1-2d", "u1-2d odd", "su2-2d clover twisted", "u1-4d clover", *list(FERMIONS)[-4:]])
def test_translation_covariance(name):
    """D[T U] = T D[U] T^dagger, where T psi(x) = psi(x+mu), with the phase of the boundary; staggered: with the sign
    (-1)^(x_{mu+1} + ...)."""
    fermion, t = FERMIONS[name], matrices(FERMIONS[name])
    shape = fermion.geometry.shape
    Nd, x = len(shape), np.indices(shape)
    phase = (np.pi, *[0.0] * (Nd - 1)) if fermion.boundary is None else fermion.boundary
    V = fermion.geometry.volume
    for mu in range(Nd):
        factor = np.where(x[mu] == shape[mu] - 1, np.exp(1j * phase[mu]), 1)
        if isinstance(fermion, StaggeredYukawa):
            factor = factor * (-1.0) ** x[mu + 1 :].sum(0)
        to = np.roll(np.arange(V).reshape(shape), -1, mu).reshape(-1)
        T = np.kron(np.eye(len(t.of["D"]) // V), factor.reshape(-1)[:, None] * np.eye(V)[to])
        close(t.run(shift(t.field, mu, Nd))["D"], T @ t.of["D"] @ T.conj().T)


@pytest.mark.parametrize("Nd", [2, 4])
def test_gamma_matrices(Nd):
    g, g5 = gamma.matrices(Nd), np.diag(gamma.chirality(Nd))
    for mu in range(Nd):
        close(g[mu], g[mu].conj().T)
        close(g[mu] @ g5 + g5 @ g[mu], 0 * g5)
        for nu in range(Nd):
            close(g[mu] @ g[nu] + g[nu] @ g[mu], 2 * (mu == nu) * np.eye(len(g5)))
    close(g5, -1j * g[0] @ g[1] if Nd == 2 else g[1] @ g[2] @ g[3] @ g[0])


@pytest.mark.parametrize("name", ["u1-2d", "su2-2d clover twisted", "u1-4d clover", "u1-2d odd"])
def test_free_spectrum(name):
    """1 - 2 kappa sum cos p +- 2 i kappa |sin p|, with momenta (2 pi n + angle) / L; links of 1 have no clover term."""
    fermion = FERMIONS[name]
    shape, Nd = fermion.geometry.shape, fermion.geometry.Nd
    free = matrices(fermion).run(fermion.group.identity((Nd, *shape)))["D"]
    phase = (np.pi, *[0.0] * (Nd - 1)) if fermion.boundary is None else fermion.boundary
    p = np.meshgrid(*((2 * np.pi * np.arange(n) + a) / n for n, a in zip(shape, phase, strict=True)), indexing="ij")
    real = 1 - 2 * fermion.kappa * sum(np.cos(k) for k in p)
    imaginary = 2 * fermion.kappa * np.sqrt(sum(np.sin(k) ** 2 for k in p))
    expected = np.repeat([real + 1j * imaginary, real - 1j * imaginary], gamma.num_spins(Nd) // 2 * fermion.group.Nc)
    assert distance(np.linalg.eigvals(free), expected) < 1e-7


@pytest.mark.parametrize("name", ["staggered-yukawa", "staggered-yukawa twisted"])
def test_free_staggered_spectrum(name):
    """m +- i |sin p|, so that -(D - m)^2 has the eigenvalue |sin p|^2 of every momentum."""
    fermion = FERMIONS[name]
    shape = fermion.geometry.shape
    D = matrices(fermion).run(jnp.full(shape, 0.4))["D"]
    phase = (np.pi, 0.0) if fermion.boundary is None else fermion.boundary
    p = np.meshgrid(*((2 * np.pi * np.arange(n) + a) / n for n, a in zip(shape, phase, strict=True)), indexing="ij")
    H = D - (fermion.mass + fermion.g * 0.4) * np.eye(len(D))
    close(H, -H.conj().T)
    energies = np.linalg.eigvalsh(1j * H)
    close(energies, -energies[::-1])
    close(np.sort(energies**2), np.sort((np.sin(p) ** 2).sum(0).reshape(-1)), 1e-11)


# ---- the clover term ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["su2-2d clover twisted", "u1-4d clover"])
def test_clover_blocks(name):
    """Hermitian, and one per chirality; without the coefficient nothing is left."""
    fermion = FERMIONS[name]
    bare = WilsonFermion(fermion.geometry, fermion.group, fermion.kappa, fermion.boundary)
    null = WilsonFermion(fermion.geometry, fermion.group, fermion.kappa, fermion.boundary, csw=0.0)

    @quick_jit
    def run(field, psi):
        return fermion.operator(field).site.blocks, bare.operator(field).mv(psi) - null.operator(field).mv(psi)

    blocks, difference = run(field_of(fermion), jnp.asarray(matrices(fermion).b))
    blocks = np.moveaxis(np.asarray(blocks), (1, 2), (-2, -1))
    close(blocks, blocks.conj().swapaxes(-1, -2))
    assert np.abs(blocks - np.eye(blocks.shape[-1])).max() > 0.1
    close(difference, 0 * difference, 1e-14)


@functools.cache
def matrix_of(geometry):
    """(links, c_sw) -> D for 2 kappa = 1 / Nd."""
    return quick_jit(lambda theta, csw: dense(WilsonFermion(geometry, U1(), 0.5 / geometry.Nd, csw=csw).operator(theta)))


def modes(shape, fluxes, csw):
    """(m_crit, chirality) of the real modes near the massless point in a uniform field, F = 2 pi Q / area in each plane:
    D / (2 kappa) = m0 - m_crit on them. The lattice Laplacian gives them -sum |F| / 2, which the clover term takes away
    again: for c_sw = 1 terms of second order in F remain."""
    geometry, Nd = Geometry(shape), len(shape)
    theta = sum(uniform_flux(shape, Q, plane) for plane, Q in fluxes.items())
    for plane in geometry.planes:
        F = 2 * np.pi * fluxes.get(plane, 0) / (shape[plane[0]] * shape[plane[1]])
        close(np.exp(1j * np.asarray(plaquette(U1(), geometry, jnp.asarray(theta), *plane))), np.full(shape, np.exp(1j * F)))
    matrix = np.asarray(matrix_of(geometry)(theta, csw))
    values, vectors = map(np.asarray, scipy.sparse.linalg.eigs(matrix, 6, sigma=0.0, v0=np.ones(len(matrix))))
    near = (np.abs(np.imag(values)) < 1e-7) & (np.real(values) * Nd < 0.8)
    g5 = np.repeat(gamma.chirality(Nd), geometry.volume)[:, None]
    return -np.real(values)[near] * Nd, np.sign((g5 * np.abs(vectors[:, near]) ** 2).sum(0))


@pytest.mark.parametrize(
    ("shape", "fluxes"),
    [((8, 6), {(0, 1): 1}), ((8, 6), {(0, 1): -2}), ((4, 4, 4, 4), {(0, 2): 1, (1, 3): -1})],
)
def test_the_clover_term_removes_the_shift_of_the_mass(shape, fluxes):
    F = sum(2 * np.pi * abs(Q) / (shape[a] * shape[b]) for (a, b), Q in fluxes.items())
    index = abs(np.prod(list(fluxes.values())))
    plain, chirality = modes(shape, fluxes, 0.0)
    improved, same_chirality = modes(shape, fluxes, 1.0)
    assert len(plain) == len(improved) == index and abs(chirality.sum()) == index and (chirality == same_chirality).all()
    np.testing.assert_allclose(plain, -F / 2, rtol=0.15)
    assert np.abs(improved).max() < 0.1 * np.abs(plain).min(), (improved, plain)


def test_the_chirality_of_zero_modes_is_the_sign_of_the_charge():
    assert modes((8, 6), {(0, 1): 1}, 0.0)[1].sum() == -modes((8, 6), {(0, 1): -1}, 0.0)[1].sum()


# ---- halves, precision, batches, refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 6), (2, 4, 2), (2, 4, 2, 6)])
def test_halves(shape):
    geometry = Geometry(shape)
    halves, parity, Nd = Halves(geometry), geometry.parity(), geometry.Nd
    field = np.random.default_rng(0).normal(size=(3, *shape))

    @quick_jit
    def run(field):
        both = halves.split(field)
        seen = {(p, mu, d): halves.shift(both[1 - p], mu, p, d) for p in (0, 1) for mu in range(Nd) for d in (1, -1)}
        return both, halves.merge(*both), seen

    both, merged, seen = run(field)
    close(merged, field, 0)
    for p in (0, 1):
        close(both[p], field[:, parity == p].reshape(3, *halves.shape), 0)
    for (p, mu, d), found in seen.items():
        close(found, np.roll(field, -d, 1 + mu)[:, parity == p].reshape(3, *halves.shape), 0)


@pytest.mark.parametrize("name", EVEN)
def test_dtypes(name):
    """Single precision stays single, whatever the precision of the parameters; sums are double."""
    fermion = FERMIONS[name]
    double = field_of(fermion)
    for field in (double, double.astype(jnp.complex64 if jnp.iscomplexobj(double) else jnp.float32)):
        expected = jnp.result_type(field.dtype, jnp.complex64)

        def operations(parameters, field):
            (traced,) = parameters
            operator = traced.operator(field)
            schur = operator.schur()
            psi, half = operator.random(jax.random.key(0)), schur.random(jax.random.key(1))
            source, odd = schur.prepare(psi)
            spinors = [operator.mv(psi), operator.adjoint(psi), schur.mv(half), schur.normal(half), operator.gamma5(psi)]
            spinors += [schur.matrix(), schur.gamma5(half), schur.reconstruct(source, odd), source, operator.hermitian(psi)]
            return spinors, [schur.log_abs_det_rest(), inner(psi, psi)]

        parameters = jax.tree.map(jnp.asarray, (fermion,))
        spinors, numbers = jax.eval_shape(operations, parameters, field)
        assert {spinor.dtype for spinor in spinors} == {expected}
        assert {number.dtype for number in numbers} == {jnp.dtype(jnp.float64)}


@pytest.mark.parametrize("name", ["su3-2d", "u1-4d clover", "staggered-yukawa"])
def test_batches_are_loops(name):
    fermion = FERMIONS[name]
    fields = [field_of(fermion, seed) for seed in range(3)]
    psi = jnp.stack([matrices(fermion).b * k for k in (1, 2j, 3)], -1)
    found = quick_jit(jax.vmap(lambda field, psi: fermion.operator(field).mv(psi), -1, -1))(jnp.stack(fields, -1), psi)
    for k, field in enumerate(fields):
        close(found[..., k].reshape(-1), matrices(fermion).run(field)["D"] @ np.asarray(psi[..., k]).reshape(-1))


def test_noise_is_complex_gaussian():
    fermion = FERMIONS["su3-2d"]
    draw = quick_jit(jax.vmap(lambda key: fermion.operator(matrices(fermion).field).random(key)))
    eta = np.asarray(draw(jax.random.split(jax.random.key(0), 200)))
    assert abs((np.abs(eta) ** 2).mean() - 1) < 5 / np.sqrt(eta.size) and abs((eta**2).mean()) < 5 * np.sqrt(2 / eta.size)
    close(inner(jnp.asarray(eta[0]), jnp.asarray(eta[1])), np.vdot(eta[0], eta[1]).real)


def test_impossible_fermions_are_refused():
    plane = Geometry((4, 4))
    for build in (lambda g: WilsonFermion(g, U1(), 0.1), lambda g: WilsonYukawa(g, 0.1, 0.1)):
        with pytest.raises(ValueError, match="two and four dimensions"):
            build(Geometry((4, 4, 4)))
    with pytest.raises(ValueError, match="WilsonYukawa"):
        WilsonFermion(plane, RealLine(), 0.1)
    for build in (
        lambda b: WilsonFermion(plane, U1(), 0.1, b),
        lambda b: WilsonYukawa(plane, 0.1, 0.1, b),
        lambda b: StaggeredYukawa(plane, 0.1, 0.1, b),
    ):
        for boundary in ((0.0,), (0.0, 0.0, 0.0), (0.0, float("nan"))):
            with pytest.raises(ValueError, match="one angle per direction"):
                build(boundary)
    with pytest.raises(ValueError, match="even extents"):
        StaggeredYukawa(Geometry((3, 4)), 0.1, 0.1)
    odd = FERMIONS["u1-2d odd"]
    with pytest.raises(ValueError, match="even extents"):
        odd.operator(field_of(odd)).schur()
