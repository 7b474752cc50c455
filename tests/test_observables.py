"""Observables against plain loops over sites, and derived quantities against closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latflow import statistics
from latflow.actions import FreeScalar, Phi4, WilsonGauge
from latflow.exact import FreeField, TorusU1Sampler, exact_values
from latflow.groups import SUN, U1, RealLine
from latflow.lattice import Geometry
from latflow.observables import OBSERVABLES, applicable, derived, find, measure

GEOMETRY = Geometry((4, 6))


def gauge_transformed(theta, omega):
    return jnp.stack([theta[mu] + omega - jnp.roll(omega, -1, mu) for mu in range(2)])


def measured(action, field, names=None):
    functions = measure(names or applicable(action.group, action.geometry), action)
    return {k: np.asarray(v) for k, v in jax.jit(lambda x: {n: f(x) for n, f in functions.items()})(field).items()}


def test_u1_observables_by_hand():
    action = WilsonGauge(GEOMETRY, U1(), 1.7)
    theta = U1().haar(jax.random.key(0), action.field_shape)
    names = [*applicable(U1(), GEOMETRY), "wilson_loop_3x2", "wilson_loop_1x4"]
    values = measured(action, theta, names)
    t = np.asarray(theta)
    L0, L1 = GEOMETRY.shape

    def line(mu, x, length):
        step = np.eye(2, dtype=int)[mu]
        return sum(t[(mu, *((np.array(x) + k * step) % GEOMETRY.shape))] for k in range(length))

    def loop(R, T, mu, nu):
        total = 0
        for x in np.ndindex(L0, L1):
            right, up = np.array(x) + R * np.eye(2, dtype=int)[mu], np.array(x) + T * np.eye(2, dtype=int)[nu]
            total += np.cos(line(mu, x, R) + line(nu, right, T) - line(mu, up, R) - line(nu, x, T))
        return total / (L0 * L1)

    assert values["plaquette"] == pytest.approx(loop(1, 1, 0, 1))
    assert values["action_density"] == pytest.approx(-1.7 * loop(1, 1, 0, 1))
    assert values["wilson_loop_1x1"] == pytest.approx(loop(1, 1, 0, 1))
    for R, T in [(1, 2), (3, 2), (1, 4)]:
        both = (loop(R, T, 0, 1) + loop(R, T, 1, 0)) / 2
        assert values[f"wilson_loop_{R}x{T}"] == pytest.approx(both)
    assert values["wilson_loop_2x2"] == pytest.approx(loop(2, 2, 0, 1))
    lines = np.exp(1j * t[0].sum(0)).mean()
    assert values["polyakov"] == pytest.approx(lines.real) and values["polyakov_abs"] == pytest.approx(abs(lines))
    P = t[0] + np.roll(t[1], -1, 0) - np.roll(t[0], -1, 1) - t[1]
    charge = np.sum(np.mod(P + np.pi, 2 * np.pi) - np.pi) / (2 * np.pi)
    assert values["q"] == pytest.approx(charge) and values["q"] == np.round(charge)
    assert values["q2"] == values["q"] ** 2 and values["chi_top"] == pytest.approx(charge**2 / 24)
    moved = measured(action, gauge_transformed(theta, jax.random.normal(jax.random.key(1), (4, 6))), names)
    for name in names:
        assert moved[name] == pytest.approx(values[name], abs=1e-12), name


def test_charge_of_a_known_background():
    """Constant field strength 2 pi k / V has charge k, also in single precision at large volume."""
    L, k = 64, 37
    x0, x1 = np.indices((L, L))
    theta = np.stack([-2 * np.pi * k / L**2 * x1, np.zeros((L, L))])
    theta[1] = np.where(x1 == L - 1, 2 * np.pi * k / L * x0, 0)
    for dtype in (np.float64, np.float32):
        q = find("q").evaluate(U1(), Geometry((L, L)), jnp.asarray(theta, dtype))
        assert float(q) == k


def test_sun_observables():
    group, geometry = SUN(2), Geometry((3, 4))
    action = WilsonGauge(geometry, group, 2.0)
    names = applicable(group, geometry)
    assert "q" not in names and "plaquette" in names
    values = measured(action, group.haar(jax.random.key(0), (2, 3, 4)))
    assert values["action_density"] == pytest.approx(-2.0 * values["plaquette"])
    assert values["wilson_loop_1x1"] == pytest.approx(values["plaquette"])
    assert values["polyakov_abs"] == pytest.approx(abs(values["polyakov"]))  # traces of SU(2) are real
    cold = measured(action, group.identity((2, 3, 4)))
    assert cold["plaquette"] == 1 and cold["polyakov"] == 1


def test_scalar_observables_by_hand():
    action = Phi4(GEOMETRY, -4.0, 6.0)
    phi = np.random.default_rng(0).normal(size=GEOMETRY.shape)
    values = measured(action, jnp.asarray(phi))
    M = phi.mean()
    assert values["magnetisation"] == pytest.approx(M) and values["abs_magnetisation"] == pytest.approx(abs(M))
    assert values["magnetisation2"] == pytest.approx(M**2) and values["magnetisation4"] == pytest.approx(M**4)
    assert values["phi2"] == pytest.approx(np.mean(phi**2)) and values["phi4"] == pytest.approx(np.mean(phi**4))
    assert values["abs_phi"] == pytest.approx(np.abs(phi).mean())
    assert values["action_density"] == pytest.approx(float(action(jnp.asarray(phi))) / 24)
    C = [np.mean([phi[t0] @ np.ones((6, 6)) @ phi[(t0 + t) % 4] / 6 for t0 in range(4)]) for t in range(4)]
    assert np.allclose(values["two_point"], C) and values["two_point"].sum() == pytest.approx(24 * M**2)


@pytest.mark.parametrize("group, shape", [(U1(), (2, 4, 6)), (RealLine(), (4, 6))])
def test_batches_and_single_precision(group, shape):
    action = WilsonGauge(GEOMETRY, group, 1.0) if isinstance(group, U1) else FreeScalar(GEOMETRY, 1.0)
    fields = jax.random.normal(jax.random.key(0), (*shape, 3), jnp.float32)
    functions = measure(applicable(group, GEOMETRY), action)
    batch = jax.jit(lambda x: {name: jax.vmap(f, in_axes=-1)(x) for name, f in functions.items()})(fields)
    single = jax.jit(lambda x: {name: f(x) for name, f in functions.items()})(fields[..., 1])
    for name, values in batch.items():
        assert values.dtype == (jnp.float64 if name == "action_density" else jnp.float32), name
        assert np.allclose(values[1], single[name], rtol=1e-4, atol=1e-5), name


def test_names():
    assert set(OBSERVABLES) >= {"plaquette", "polyakov", "q", "q2", "chi_top", "magnetisation", "phi2", "two_point"}
    assert [n for n in applicable(U1(), Geometry((4, 4, 4, 4))) if n.startswith("wilson")] == [
        "wilson_loop_1x1",
        "wilson_loop_1x2",
        "wilson_loop_2x2",
    ]
    assert "q" not in applicable(U1(), Geometry((4, 4, 4))) and applicable(RealLine(), Geometry((8,)))[0] == "action_density"
    assert "wilson_loop_4x4" in applicable(U1(), GEOMETRY, [(4, 4), (5, 1)]) + ()
    assert "wilson_loop_5x1" not in applicable(U1(), GEOMETRY, [(4, 4), (5, 1)])
    with pytest.raises(ValueError, match="did you mean 'plaquette'"):
        find("plaquete")
    with pytest.raises(ValueError, match="q2 exists for U\\(1\\) gauge fields in two dimensions, not for RealLine"):
        measure(["q2"], FreeScalar(GEOMETRY, 1.0))
    with pytest.raises(ValueError, match="extent 5 or more"):
        measure(["wilson_loop_5x1"], WilsonGauge(GEOMETRY, U1(), 1.0))
    with pytest.raises(ValueError, match="at least 1"):
        find("wilson_loop_0x1")


def pulls(series, geometry, exact, log_weight=None):
    """Every quantity, measured and derived, against its exact value."""
    quantities = {name: statistics.observable(x, log_weight) for name, x in series.items()}
    quantities |= derived(quantities, geometry)
    result = {}
    for name, value in exact.items():
        if name in quantities:
            for e, x in zip(np.ravel(statistics.summary(quantities[name], 0.0)), np.ravel(value), strict=True):
                if e.error > 0 and np.isfinite(x):
                    result.setdefault(name, []).append((e.value - x) / e.error)
    return result


def test_free_field_plain_replica_and_reweighted():
    """Draws at one mass, and reweighted to another, give the closed forms of phi2, C(t), masses, lengths, cumulants."""
    geometry, n = Geometry((8, 6)), 20000
    free, target = FreeField(geometry, 0.5), FreeField(geometry, 0.45)
    action = FreeScalar(geometry, 0.5)
    functions = measure(applicable(RealLine(), geometry), action)

    def draw(key):
        phi, log_q = free.sample_and_log_density(key)
        return {name: f(phi) for name, f in functions.items()}, target.log_density(phi) - log_q

    series, log_weight = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(11), n))
    series = {name: np.asarray(x).reshape(n, 1, *x.shape[1:]) for name, x in series.items()}
    assert statistics.effective_sample_size(log_weight) > 0.7
    replica = {name: x.reshape(n // 4, 4, *x.shape[2:]) for name, x in series.items()}
    weighted = {name: x for name, x in series.items() if name != "action_density"}
    cases = [(series, 0.5, None), (replica, 0.5, None), (weighted, 0.45, np.asarray(log_weight)[:, None])]
    for data, m2, weights in cases:
        found = pulls(data, geometry, exact_values(RealLine(), geometry, m2=m2), weights)
        wanted = {"phi2", "phi4", "two_point_connected", "effective_mass", "pole_mass", "correlation_length"}
        assert found.keys() >= wanted | {"susceptibility", "binder_cumulant", "abs_magnetisation", "abs_phi"}
        assert len(found["two_point"]) == 8 and len(found["effective_mass"]) == 4
        for name, values in found.items():
            assert np.abs(values).max() < 5, (name, values)
        assert 0.1 < np.mean(np.square(np.concatenate(list(found.values())))) < 4


def test_u1_exact_draws_against_every_closed_form():
    geometry, beta, n = Geometry((8, 8)), 2.0, 8192
    sampler = TorusU1Sampler(geometry, beta)
    names = applicable(U1(), geometry)
    functions = measure(names, WilsonGauge(geometry, U1(), beta))

    @jax.jit
    def draw(keys):
        links = jax.vmap(sampler.sample, out_axes=-1)(keys)
        return {name: jax.vmap(f, in_axes=-1)(links) for name, f in functions.items()}

    series = {name: np.asarray(x) for name, x in draw(jax.random.split(jax.random.key(3), n)).items()}
    exact = exact_values(U1(), geometry, [*names, "creutz_ratio_2x2", "creutz_ratio_2x3", "creutz_ratio_3x3"], beta=beta)
    found = pulls(series, geometry, exact)
    assert found.keys() >= {"action_density", "q", "q2", "chi_top", "polyakov", "wilson_loop_3x3", "creutz_ratio_2x3"}
    for name, values in found.items():
        assert np.abs(values).max() < 5, (name, values)
    assert np.mean(np.square(np.concatenate(list(found.values())))) < 4


def test_quantities_that_noise_makes_undefined():
    rng = np.random.default_rng(0)
    noise = {"two_point": rng.normal(size=(50, 1, 8)), "magnetisation": rng.normal(size=(50, 1))}
    quantities = {name: statistics.observable(x) for name, x in noise.items()}
    masses = statistics.summary(derived(quantities, Geometry((8, 8)))["effective_mass"])
    assert len(masses) == 5 and all(np.isnan(e.value) == np.isnan(e.error) for e in masses)
    assert any(np.isnan(e.value) for e in masses)
