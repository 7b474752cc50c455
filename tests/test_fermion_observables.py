"""Fermionic observables against dense inverses, closed forms of free fermions, and configurations of known sign."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts import close, cut, gauge_transform, pool
from fermion_cases import field_of, log_abs_det_and_sign, quick_jit, reference, uniform_flux

from latflow.dirac import StaggeredYukawa, WilsonFermion
from latflow.groups import SUN, U1
from latflow.lattice import Geometry, shift
from latflow.observables.fermion import (
    FermionObservables,
    condition_numbers,
    singular_values,
    solve,
    spectrum,
)

FERMIONS = {
    "u1": WilsonFermion(Geometry((4, 4)), U1(), 0.2),
    "u1 odd": WilsonFermion(Geometry((3, 2)), U1(), 0.2),
    "su2": WilsonFermion(Geometry((4, 2)), SUN(2), 0.19, csw=1.0),
    "staggered-yukawa": StaggeredYukawa(Geometry((4, 2)), 0.5, 0.3),
}


@functools.cache
def measured(fermion, sources, **settings):
    """The observables as a compiled function of the field."""
    family = FermionObservables(fermion, sources, **settings)
    return quick_jit(lambda field: family.evaluate(fermion.group, fermion.geometry, field))


def by_source(fermion, field):
    """(pion (V, L0), condensate (V,)) of each source site, from the inverse of the matrix written site by site."""
    shape, V = fermion.geometry.shape, fermion.geometry.volume
    inverse = np.linalg.inv(reference(fermion, np.asarray(field)))
    n = len(inverse) // V
    S = inverse.reshape(n, V, n, V)
    pion = np.zeros((V, shape[0]))
    for y, site in enumerate(np.ndindex(*shape)):
        for x, other in enumerate(np.ndindex(*shape)):
            pion[y, (other[0] - site[0]) % shape[0]] += (np.abs(S[:, x, :, y]) ** 2).sum()
    return pion, np.array([np.trace(S[:, y, :, y]).real for y in range(V)])


@pytest.mark.parametrize("name", FERMIONS)
def test_exact_sources(name):
    fermion = FERMIONS[name]
    field = field_of(fermion)
    found = measured(fermion, "exact", sign=True)(field)
    pion, condensate = by_source(fermion, field)
    assert set(found) == {"pion", "condensate", "det_sign"} and found["pion"].shape == fermion.geometry.shape[:1]
    close(found["pion"], pion.mean(0), 1e-11)
    close(found["condensate"], condensate.mean(), 1e-11)
    close(found["det_sign"], log_abs_det_and_sign(reference(fermion, np.asarray(field)))[1], 0)


SOURCES = [("u1", "point", 99), ("u1", "time-slice", 0), ("u1 odd", "point", 0), ("su2", "time-slice", 99)]


@pytest.mark.parametrize(("name", "sources", "direct"), SOURCES)
def test_stochastic_sources(name, sources, direct):
    """In 256 gauges, in which sources differ and the truth does not, the mean of two sources each is the exact value."""
    fermion, gauges = FERMIONS[name], 256
    group, geometry, field = fermion.group, fermion.geometry, field_of(fermion)
    omega = jax.vmap(lambda key: group.haar(key, geometry.shape))(jax.random.split(jax.random.key(3), gauges))
    family = FermionObservables(fermion, sources, number=2, direct=direct)

    @quick_jit
    @jax.vmap
    def run(omega):
        return family.evaluate(group, geometry, gauge_transform(group, field, omega, geometry.Nd))

    found = run(omega)
    pion, condensate = by_source(fermion, field)
    values = np.concatenate([found["pion"], np.asarray(found["condensate"])[:, None]], 1)
    exact = np.append(pion.mean(0), condensate.mean())
    error = values.std(0, ddof=1) / np.sqrt(gauges)
    assert (error > 0).all() and (np.abs(values.mean(0) - exact) < 5 * error).all()
    if sources == "point":  # the spread is that of two sites drawn at random
        spread = np.append(pion, condensate[:, None], 1).std(0) / np.sqrt(2)
        np.testing.assert_allclose(values.std(0), spread, rtol=0.25)


def test_sources_are_a_function_of_the_configuration():
    fermion = FERMIONS["u1"]
    run, field = measured(fermion, "point"), field_of(fermion)
    first, again = run(field), run(field)
    for name in first:
        close(first[name], again[name], 0)
    assert len({float(run(shift(field, 1, 2, k))["condensate"]) for k in range(4)}) > 1


def test_the_free_pion():
    """Without momentum in space, D / 2 kappa = (1 + m0) - (1 -+ gamma_0) / 2 T_+- falls into two parts that move forward and
    backward in time: with a = 1 / (1 + m0), in units of (2 kappa)^-2,

        C(t) = a^2 (a^2t + a^(2 (L - t))) / (1 + a^L)^2,    t > 0,

    of energy 2 log(1 + m0), and 2 a^2 / (1 + a^L)^2 at t = 0. Antiperiodic in time; point sources are exact here."""
    L, m0 = 6, 0.4
    kappa, a, t = 1 / (4 + 2 * m0), 1 / (1 + m0), np.arange(6)
    expected = a**2 * (a ** (2.0 * t) + a ** (2.0 * ((L - t) % L))) / (1 + a**L) ** 2 / (2 * kappa) ** 2
    fermion, free = WilsonFermion(Geometry((L, 1)), U1(), kappa), jnp.zeros((2, L, 1))
    close(measured(fermion, "exact")(free)["pion"], expected, 1e-11)
    close(measured(fermion, "point")(free)["pion"], expected, 1e-8)
    close(measured(fermion, "exact")(free)["condensate"], 2 * a / (1 + a**L) / (2 * kappa), 1e-11)


def test_gauge_and_translation_invariance():
    fermion = FERMIONS["su2"]
    group, geometry, field = fermion.group, fermion.geometry, field_of(fermion)
    run = measured(fermion, "exact", sign=True)
    turned = quick_jit(gauge_transform, static_argnums=(0, 3))(group, field, cut(group, pool(group, 2)[0], geometry.shape), 2)
    for other in (turned, shift(field, 0, 2), shift(field, 1, 2)):
        for name, value in run(field).items():
            close(run(other)[name], value, 1e-11)


def test_single_precision():
    """Solved in double precision, given in that of the field."""
    fermion = FERMIONS["staggered-yukawa"]
    field = field_of(fermion)
    for sources in ("exact", "point"):
        found = measured(fermion, sources, sign=True)(field.astype(jnp.float32))
        assert {value.dtype for value in found.values()} == {jnp.dtype(jnp.float32)}
    exact = measured(fermion, "exact", sign=True)
    close(exact(field.astype(jnp.float32))["pion"], exact(field)["pion"], 1e-5)


@pytest.mark.parametrize("name", ["u1", "u1 odd"])
def test_solves(name):
    """Those by LU and by CG, and nan where the iterations do not suffice."""
    fermion = FERMIONS[name]
    field = field_of(fermion)
    shape = fermion.operator(field).shape
    b = np.random.default_rng(0).normal(size=(3, *shape, 2)) @ np.array([1, 1j])

    @quick_jit
    def run(field, b):
        operator = fermion.operator(field)
        return solve(operator, b), solve(operator, b, 1e-11, direct=0), solve(operator, b, max_iterations=1, direct=0)

    *found, failed = run(field, jnp.asarray(b))
    for x in found:
        close(reference(fermion, np.asarray(field)) @ np.asarray(x).reshape(3, -1).T, b.reshape(3, -1).T, 1e-9)
    assert failed.shape == b.shape and np.isnan(failed).all()


def test_a_failed_solve_makes_the_observable_nan():
    fermion = FERMIONS["u1"]
    found = measured(fermion, "time-slice", max_iterations=1, direct=0)(field_of(fermion))
    assert np.isnan(found["pion"]).all() and np.isnan(found["condensate"])


def test_spectra():
    fermion = FERMIONS["u1"]
    field, masses, regulator = field_of(fermion), (0.1, 0.7), 0.02
    D = reference(fermion, np.asarray(field))
    operator = fermion.operator(field)
    values = np.asarray(spectrum(operator))
    close(np.prod(values).real, np.linalg.det(D).real, 1e-9)
    for value in values:  # each is an eigenvalue
        assert np.linalg.svd(D - value * np.eye(len(D)), compute_uv=False)[-1] < 1e-9
    close(singular_values(operator), np.linalg.svd(D, compute_uv=False), 1e-11)
    M, unit = D @ D.conj().T, np.eye(len(D))
    kernels = [unit + (b - a) * np.linalg.inv(M + a * unit) for a, b in ((0.02, 0.1), (0.1, 0.7))] + [M + 0.7 * unit]
    close(condition_numbers(operator, masses, regulator), [np.linalg.cond(k) for k in kernels], 1e-9)
    close(condition_numbers(operator), [np.linalg.cond(M)], 1e-8)


@pytest.mark.parametrize("shape", [(4, 4), (3, 5)])
def test_the_sign_of_the_determinant(shape):
    """In a uniform field of charge Q, |Q| real eigenvalues cross zero where the mass is below theirs; doublers are heavy."""
    fermion = WilsonFermion(Geometry(shape), U1(), 1 / (4 - 1.2))
    sign = quick_jit(lambda field: fermion.operator(field).preconditioned().determinant_sign())
    for Q, expected in ((0, 1), (1, -1), (-1, -1), (2, 1)):
        field = uniform_flux(shape, Q)
        assert sign(jnp.asarray(field)) == expected == log_abs_det_and_sign(reference(fermion, field))[1]


def test_no_correlator_and_impossible_settings():
    fermion = FERMIONS["u1"]
    assert measured(fermion, None)(field_of(fermion)) == {}
    assert set(measured(fermion, None, sign=True)(field_of(fermion))) == {"det_sign"}
    with pytest.raises((ValueError, TypeError), match="sources"):
        FermionObservables(fermion, "wall")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one source"):
        FermionObservables(fermion, "point", number=0)
