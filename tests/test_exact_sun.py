"""Two-dimensional SU(N): closed forms against integrals over conjugacy classes, group identities and each other."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from latflow.exact import TorusSUN, exact_values
from latflow.exact.sun_2d import character_series
from latflow.groups import SUN
from latflow.lattice import Geometry


def weyl_grid(Nc: int, n: int):
    """(eigenangles, Haar weights) of SU(Nc) on a periodic grid, exact for trigonometric polynomials of low degree."""
    grid = np.meshgrid(*[2 * np.pi * np.arange(n) / n] * (Nc - 1), indexing="ij")
    angles = np.stack([*grid, -sum(grid)])
    z = np.exp(1j * angles)
    density = np.ones(grid[0].shape)
    for i in range(Nc):
        for j in range(i):
            density = density * np.abs(z[i] - z[j]) ** 2
    return z, density / density.sum()


def character(rows, z):
    """Weyl's determinant ratio."""
    Nc = len(rows)
    top = np.stack([np.stack([z[i] ** (rows[j] + Nc - 1 - j) for j in range(Nc)], -1) for i in range(Nc)], -2)
    bottom = np.stack([np.stack([z[i] ** (Nc - 1 - j) for j in range(Nc)], -1) for i in range(Nc)], -2)
    det = np.linalg.det(bottom)
    return np.where(np.abs(det) > 1e-9, np.linalg.det(top) / np.where(np.abs(det) > 1e-9, det, 1), 0)


@pytest.mark.parametrize("Nc, n, beta", [(2, 120, 2.2), (2, 120, 20.0), (3, 60, 5.0), (4, 32, 4.0)])
def test_coefficients_are_the_projections_on_characters(Nc, n, beta):
    z, weight = weyl_grid(Nc, n)
    boltzmann = np.exp(beta / Nc * z.sum(0).real)
    series = character_series(Nc, beta, 4)
    for rows, d, log_ratio in list(zip(series.rows, series.dimension, series.log_ratio, strict=True))[:8]:
        chi = character(rows, z)
        assert (weight * np.abs(chi) ** 2).sum() == pytest.approx(1, abs=1e-9)
        c = (weight * boltzmann * chi.real).sum() / d
        assert math.exp(log_ratio + series.log_trivial) == pytest.approx(c, rel=1e-9)


def test_su2_is_a_series_of_bessel_functions():
    V, beta = 12, 2.2
    n = np.arange(1, 60)
    c = 2 * scipy.special.iv(n, beta) / beta
    theory = TorusSUN(Geometry((3, 4)), SUN(2), beta)
    assert theory.log_z() == pytest.approx(np.log(np.sum(c**V)), rel=1e-13)
    c2 = 2 * scipy.special.iv(n + 1, beta) / beta
    loops = (c2**5 * c ** (V - 5) * (n + 1) / n).sum() + (c[:-1] ** 5 * c[1:] ** (V - 5) * n[:-1] / n[1:]).sum()
    assert theory.wilson_loop(5) == pytest.approx(loops / 2 / np.sum(c**V), rel=1e-12)


@pytest.mark.parametrize(
    "Nc, shape, beta", [(2, (2, 2), 0.7), (2, (8, 8), 2.2), (3, (2, 3), 5.0), (3, (16, 16), 6.0), (4, (4, 4), 9.0)]
)
def test_plaquette_is_the_slope_of_log_z(Nc, shape, beta):
    geometry, h = Geometry(shape), 1e-4
    theory = TorusSUN(geometry, SUN(Nc), beta)
    slope = (TorusSUN(geometry, SUN(Nc), beta + h).log_z() - TorusSUN(geometry, SUN(Nc), beta - h).log_z()) / (2 * h)
    assert theory.plaquette() == pytest.approx(slope / geometry.volume, rel=1e-6)
    assert theory.action_density() == pytest.approx(-beta * theory.plaquette())
    assert theory.wilson_loop(0) == pytest.approx(1, abs=1e-9)
    loops = [theory.wilson_loop(area) for area in range(geometry.volume // 2)]
    assert all(a > b > 0 for a, b in itertools.pairwise(loops))


@pytest.mark.parametrize("Nc", [2, 3])
def test_one_plaquette_torus_by_direct_integration(Nc):
    """L = 1: two links and one plaquette U V U^dagger V^dagger, averaged over Haar pairs."""
    group, beta, n = SUN(Nc), 1.5, 60000
    u, v = (group.haar(jax.random.key(seed), (n,), jnp.complex128) for seed in (1, 2))
    p = group.multiply(group.multiply(u, v), group.multiply(group.adjoint(u), group.adjoint(v)))
    trace = np.asarray(group.re_trace(p)) / Nc
    w = np.exp(beta * trace)
    theory = TorusSUN(Geometry((1, 1)), group, beta)
    assert abs(w.mean() - math.exp(theory.log_z())) < 5 * w.std() / math.sqrt(n)
    ratio = w * (trace - theory.plaquette())
    assert abs(ratio.mean()) < 5 * ratio.std() / math.sqrt(n)


def test_strong_and_weak_coupling():
    free = TorusSUN(Geometry((4, 4)), SUN(3), 0.0)
    assert free.log_z() == pytest.approx(0, abs=1e-12) and free.plaquette() == pytest.approx(0, abs=1e-12)
    # (N^2 - 1)/2 modes per plaquette but one constraint: <S> rises by that many halves
    weak = TorusSUN(Geometry((8, 8)), SUN(3), 60.0)
    assert 60 * (1 - weak.plaquette()) == pytest.approx(4 * 63 / 64, rel=0.02)


def test_values_by_the_names_of_observables():
    known = exact_values(SUN(3), Geometry((4, 4)), ("wilson_loop_2x2", "creutz_ratio_2x2"), beta=5.0)
    theory = TorusSUN(Geometry((4, 4)), SUN(3), 5.0)
    assert known["plaquette"] == theory.plaquette() and known["wilson_loop_2x2"] == theory.wilson_loop(4)
    assert "q2" not in known and known["creutz_ratio_2x2"] > 0
    assert set(exact_values(SUN(3), Geometry((4, 4, 4)), beta=5.0)) == {"polyakov"}


def test_impossible_theories_are_refused():
    with pytest.raises(ValueError, match="two dimensions"):
        TorusSUN(Geometry((4, 4, 4)), SUN(3), 1.0)
    with pytest.raises(ValueError, match="beta >= 0"):
        TorusSUN(Geometry((4, 4)), SUN(3), -1.0)
    with pytest.raises(ValueError, match="area 17"):
        TorusSUN(Geometry((4, 4)), SUN(3), 1.0).wilson_loop(17)
