"""Contracts of every kernel, one row each: it leaves exp(-S) invariant, keeps its caches right, and works on batches.

Expectation values are exact. Beside closed forms these are Schwinger-Dyson identities, which hold for every theory in any
dimension: <<F, F>> = <-Laplacian S on the group>, for the Wilson action -4 C_F <S> with C_F = (Nc^2 - 1)/(2 Nc) (1 for
U(1)), and <phi . F> = V for scalars.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from latflow.actions import AbstractAction, FreeScalar, Phi4, WilsonGauge
from latflow.exact import FreeField, TorusU1, TorusU1Sampler
from latflow.groups import SUN, U1, RealLine
from latflow.kernels import (
    HMC,
    KERNELS,
    AbstractKernel,
    Composite,
    HeatbathSUN,
    HeatbathU1,
    LocalMetropolis,
    OverrelaxationSUN,
    OverrelaxationU1,
    conditional_action,
    heatbath_sweep,
    von_mises,
)
from latflow.lattice import Geometry

SQUARE = Geometry((4, 4))
U1_2D = WilsonGauge(SQUARE, U1(), 1.3)
U1_3D = WilsonGauge(Geometry((2, 4, 2)), U1(), 0.9)
U1_4D = WilsonGauge(Geometry((2, 4, 2, 2)), U1(), 0.6)
SU2 = WilsonGauge(Geometry((2, 2)), SUN(2), 2.0)
SU3 = WilsonGauge(Geometry((2, 2)), SUN(3), 3.0)
FREE = FreeScalar(SQUARE, 0.6)
PHI4 = Phi4(SQUARE, -1.0, 0.7)


def su2_plaquette(action: WilsonGauge) -> float:
    """<Re Tr P>/2 from Z = sum_n (2 I_n(beta)/beta)^V, n = 2j + 1: the characters' coefficients over their dimensions."""
    n = np.arange(1, 40)
    return log_z_slope(lambda b: np.log(np.sum((2 * scipy.special.iv(n, b) / b) ** action.geometry.volume)), action)


def su3_plaquette(action: WilsonGauge) -> float:
    """<Re Tr P>/3 from Z = sum_r (b_r/d_r)^V, with b_r = sum_k det I_{r_j - j + i + k}(beta/3) of Young rows r."""

    def log_z(beta: float) -> float:
        i, j = np.indices((3, 3))
        total = 0.0
        for p in range(8):
            for q in range(8):
                rows, d = np.array([p + q, q, 0]), (p + 1) * (q + 1) * (p + q + 2) / 2
                b = sum(np.linalg.det(scipy.special.iv(rows[j] - j + i + k, beta / 3)) for k in range(-25, 26))
                total += (b / d) ** action.geometry.volume
        return np.log(total)

    return log_z_slope(log_z, action)


def log_z_slope(log_z: Callable[[float], Any], action: WilsonGauge, step: float = 1e-4) -> float:
    beta = float(action.beta)
    return float(log_z(beta + step) - log_z(beta - step)) / (2 * step * action.geometry.volume)


class Row(NamedTuple):
    """`start(action, chains)` draws exact samples (discard 0) or not; `steps` are measured after `discard` steps, per chain."""

    kernel: AbstractKernel
    start: Callable
    exact: float | None = None  # <S>/V
    chains: int = 2048
    discard: int = 0
    steps: int = 3


def exact(action: AbstractAction, chains: int) -> np.ndarray:
    return exact_samples(action is FREE)[:chains]


@functools.cache
def exact_samples(free: bool) -> np.ndarray:
    sampler = FreeField(SQUARE, FREE.m2) if free else TorusU1Sampler(SQUARE, U1_2D.beta)
    return np.asarray(jax.jit(jax.vmap(sampler.sample))(jax.random.split(jax.random.key(1), 4096)))


def hot(action: AbstractAction, chains: int) -> np.ndarray:
    # steep potentials stop coarse trajectories from far outside
    width = 0.5 if isinstance(action.group, RealLine) else np.pi
    return np.random.default_rng(2).uniform(-width, width, (chains, *action.field_shape))


def cold(action: AbstractAction, chains: int) -> np.ndarray:
    unit = np.eye(action.group.Nc, dtype=complex).reshape(*action.group.colour_shape, *(1,) * (1 + action.geometry.Nd))
    return np.broadcast_to(unit, (chains, *action.field_shape))


U1_ENERGY = TorusU1(SQUARE, U1_2D.beta).action_density()
SU2_ENERGY, SU3_ENERGY = -SU2.beta * su2_plaquette(SU2), -SU3.beta * su3_plaquette(SU3)
ROWS = {
    "hmc U1": Row(HMC(U1_2D, 1.2, 4, "leapfrog", jitter=0.3), exact, U1_ENERGY, 4096),
    "hmc free": Row(HMC(FREE, 1.2, 4, "leapfrog", jitter=0.3), exact, 0.5, 4096),
    "hmc phi4": Row(HMC(PHI4, 1.0, 4), hot, None, 1024, 20, 10),
    "hmc SU2": Row(HMC(SU2, 1.2, 2, "leapfrog"), cold, SU2_ENERGY, 512, 20, 15),
    "hmc SU3": Row(HMC(SU3, 1.0, 3, "leapfrog"), cold, SU3_ENERGY, 512, 20, 15),
    "heatbath U1": Row(HeatbathU1(U1_2D), exact, U1_ENERGY),
    "heatbath+overrelaxation 4D": Row(heatbath_sweep(U1_4D, 2), hot, None, 256, 20, 15),
    "heatbath SU2": Row(HeatbathSUN(SU2), cold, SU2_ENERGY, 512, 20, 15),
    "heatbath+overrelaxation SU3": Row(heatbath_sweep(SU3, 1), cold, SU3_ENERGY, 512, 20, 15),
    "overrelaxation U1": Row(OverrelaxationU1(U1_2D), exact, U1_ENERGY),
    "local U1": Row(LocalMetropolis(U1_2D, 1.5), exact, U1_ENERGY),
    "local phi4": Row(LocalMetropolis(PHI4, 0.7, 2), hot, None, 512, 30, 20),
    "local SU2": Row(LocalMetropolis(SU2, 0.6, 2), cold, SU2_ENERGY, 512, 30, 20),
    "hmc+local free": Row(
        Composite((HMC(FREE, 1.2, 3, "leapfrog"), LocalMetropolis(FREE, 0.5)), (1, 2)), exact, 0.5, 2048, 0, 2
    ),
}


def action_of(kernel: AbstractKernel) -> AbstractAction:
    return kernel.kernels[0].action if isinstance(kernel, Composite) else kernel.action  # type: ignore[attr-defined]


def measure(action: AbstractAction, field) -> jax.Array:
    """S/V, and the difference of the two sides of the Schwinger-Dyson identity per site."""
    value, force = action.value_and_force(field)
    V = action.geometry.volume
    if isinstance(action.group, RealLine):
        return jnp.stack([value / V, jnp.sum(field * force) / V - 1])
    Nc = action.group.Nc
    casimir = 1 if Nc == 1 else (Nc**2 - 1) / (2 * Nc)
    return jnp.stack([value / V, (action.group.inner(force, force) + 4 * casimir * value) / V])


@functools.cache
def run(name: str):
    """(keys and states of the last step, last states, the same made afresh, infos (steps, chains), measurements (..., 2))."""
    row = ROWS[name]
    kernel, action = row.kernel, action_of(row.kernel)

    @jax.jit
    def go(key, fields):
        first = jax.vmap(kernel.init)(fields)

        def step(carry, i):
            states, _, _ = carry
            keys = jax.random.split(jax.random.fold_in(key, i), row.chains)
            new, info = jax.vmap(kernel.step)(keys, states)
            return (new, keys, states), (info, jax.vmap(lambda field: measure(action, field))(new.field))

        carry = (first, jax.random.split(key, row.chains), first)
        (last, keys, previous), (info, values) = jax.lax.scan(step, carry, jnp.arange(row.discard + row.steps))
        return (jax.random.key_data(keys), previous), last, jax.vmap(kernel.init)(last.field), info, values

    return jax.tree.map(np.asarray, go(jax.random.key(sum(map(ord, name))), row.start(action, row.chains)))


@pytest.mark.parametrize("name", ROWS)
def test_kernel_leaves_the_weight_invariant(name):
    row = ROWS[name]
    values = run(name)[-1][row.discard :]
    chain_means = values.mean(axis=0)
    error = chain_means.std(axis=0, ddof=1) / np.sqrt(row.chains)  # chains are independent
    assert np.all(values.reshape(-1, 2).var(axis=0) / error**2 > 1000)  # effective sample size
    for mean, truth, sigma in zip(chain_means.mean(axis=0), (row.exact, 0.0), error, strict=True):
        if truth is not None:
            assert abs(mean - truth) < 5 * sigma, (mean, truth, sigma)


@pytest.mark.parametrize("name", ROWS)
def test_state_and_info_are_consistent(name):
    (_, previous), last, fresh, info, _ = run(name)
    for cached, true in zip(jax.tree.leaves(last), jax.tree.leaves(fresh), strict=True):
        np.testing.assert_allclose(cached, true, atol=1e-9)
    assert np.all((info.acceptance >= 0) & (info.acceptance <= 1)) and np.all(info.finite)
    assert info.acceptance.mean() > 0.3
    # a kernel that does nothing would keep exact samples exact, but not pass here
    unmoved = np.all((last.field == previous.field).reshape(len(last.field), -1), axis=1)
    np.testing.assert_array_equal(unmoved, ~info.accepted[-1])
    if not isinstance(ROWS[name].kernel, HMC):
        np.testing.assert_allclose(info.delta_action[-1], last.action - previous.action, atol=1e-9)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if isinstance(row.kernel, HMC)])
def test_energy_violations_average_to_one(name):
    row = ROWS[name]
    info = run(name)[3]
    delta, acceptance = info.delta_action[row.discard :], info.acceptance[row.discard :]
    weight = np.exp(-delta)
    error = weight.mean(axis=0).std() / np.sqrt(row.chains)
    assert 1e-4 < error < 0.05  # bad enough trajectories for a real test, good enough for a sharp one
    assert abs(weight.mean() - 1) < 5 * error
    assert delta.mean() > 0
    accepted = info.accepted[row.discard :].mean()
    assert abs(accepted - acceptance.mean()) < 5 * 0.5 / np.sqrt(delta.size)


@pytest.mark.parametrize("name", ["hmc U1", "heatbath U1", "local phi4"])
def test_a_batch_equals_a_loop(name):
    (keys, previous), last, _, info, _ = run(name)
    single = eqx.filter_jit(ROWS[name].kernel.step)
    for i in range(3):
        alone = single(jax.random.wrap_key_data(keys[i]), jax.tree.map(lambda x, i=i: jnp.asarray(x[i]), previous))
        batch = jax.tree.map(lambda x, i=i: x[i], last), jax.tree.map(lambda x, i=i: x[-1, i], info)
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(batch), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("name", ROWS)
def test_single_precision_stays_single(name):
    kernel = ROWS[name].kernel
    action = action_of(kernel)
    dtype = jnp.complex64 if action.group.colour_shape else jnp.float32
    field = jax.ShapeDtypeStruct(action.field_shape, dtype)
    state, info = eqx.filter_eval_shape(lambda field: kernel.step(jax.random.key(0), kernel.init(field)), field)
    assert state.field.dtype == dtype and state.field.shape == action.field_shape
    assert {x.dtype.name for x in (state.action, info.delta_action)} == {"float64"}  # sums over the lattice
    assert state.force is None or state.force.dtype == dtype


def test_every_registered_kernel_has_a_row():
    parts = {type(k) for row in ROWS.values() if isinstance(row.kernel, Composite) for k in row.kernel.kernels}
    assert {type(row.kernel) for row in ROWS.values()} | parts == set(KERNELS.values())


@pytest.mark.parametrize("action", [U1_2D, U1_4D, WilsonGauge(SQUARE, U1(), -0.7)], ids=["2D", "4D", "beta<0"])
def test_overrelaxation_is_microcanonical(action):
    kernel = OverrelaxationU1(action)
    field = jnp.asarray(np.random.default_rng(0).uniform(-np.pi, np.pi, action.field_shape))
    state, info = eqx.filter_jit(lambda key, field: kernel.step(key, kernel.init(field)))(jax.random.key(0), field)
    assert abs(info.delta_action) < 1e-11
    assert np.mean(np.abs(state.field - field) > 1e-3) > 0.95


@pytest.mark.parametrize("action", [U1_3D, 0.3 * U1_2D + U1_2D, SU3, PHI4 + 0.5 * FREE], ids=["U1", "sums", "SU3", "phi4"])
def test_local_differences_add_up_to_the_action(action):
    """Change half of the variables of one direction at once: exact only if their local terms are complete and independent."""
    group, scalar = action.group, isinstance(action.group, RealLine)
    rng, parity = np.random.default_rng(1), action.geometry.parity()
    points = action.field_shape[len(group.colour_shape) :]

    def draw():
        if not group.colour_shape:
            return rng.uniform(-2, 2, points)
        matrix = rng.standard_normal((*points, 3, 3)) + 1j * rng.standard_normal((*points, 3, 3))
        q = np.linalg.qr(matrix)[0]
        q = q / np.linalg.det(q)[..., None, None] ** (1 / 3)
        return np.moveaxis(q, (-2, -1), (0, 1))

    @jax.jit
    def both(old, new):
        out = []
        for mu in range(1 if scalar else action.geometry.Nd):
            for colour in range(2):
                active = parity == colour
                if not scalar:
                    active = active & (np.arange(action.geometry.Nd) == mu).reshape(-1, *(1,) * action.geometry.Nd)
                active = active.reshape((1,) * len(group.colour_shape) + active.shape)
                mixed = jnp.where(active, new, old)
                local = conditional_action(action, old, mu)
                a, b = ((x if scalar else x[..., mu, *(slice(None),) * action.geometry.Nd]) for x in (mixed, old))
                out.append(jnp.stack([jnp.sum(local(a) - local(b)), action(mixed) - action(old)]))
        return jnp.stack(out)

    local, total = np.asarray(both(draw(), draw())).T
    assert np.min(np.abs(total)) > 1e-3
    np.testing.assert_allclose(local, total, atol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_von_mises_draws_follow_their_distribution(dtype):
    kappas, n = np.array([0.0, 1e-3, 0.5, 3.0, 60.0, 1e4]), 20000
    draws = jax.jit(von_mises)(jax.random.key(3), jnp.broadcast_to(jnp.asarray(kappas, dtype)[:, None], (6, n)))
    assert draws.dtype == dtype
    draws = np.asarray(draws, np.float64)
    for kappa, angles in zip(kappas, draws, strict=True):
        cdf = scipy.stats.vonmises(kappa).cdf if kappa else scipy.stats.uniform(-np.pi, 2 * np.pi).cdf
        assert scipy.stats.kstest(angles, cdf).pvalue > 1e-5
        # 1 - <cos>, in a form that resolves the narrow distributions
        s = 2 * np.sin(angles / 2) ** 2
        exact = 1 - scipy.special.ive(1, kappa) / scipy.special.ive(0, kappa)
        assert abs(s.mean() - exact) < 5 * s.std() / np.sqrt(n)


def test_von_mises_survives_impossible_concentrations():
    kappa = jnp.array([jnp.nan, jnp.inf, 1e30, 1.0], jnp.float32)
    draws = jax.jit(von_mises)(jax.random.key(0), kappa)
    np.testing.assert_array_equal(np.isfinite(draws), [False, False, True, True])


class Unknown(AbstractAction):
    geometry: Geometry = eqx.field(default=SQUARE, static=True)
    group: RealLine = RealLine()

    def __call__(self, field):
        return jnp.sum(field**2)

    def value_and_force(self, field):
        return self(field), 2 * field


ODD = WilsonGauge(Geometry((3, 4)), U1(), 1.0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: HeatbathU1(ODD), r"even extents.*change \[3\]"),
        (lambda: OverrelaxationU1(ODD), "even extents"),
        (lambda: LocalMetropolis(ODD), "even extents"),
        (lambda: HeatbathU1(SU2), "use HMC"),
        (lambda: HeatbathU1(PHI4), "use HMC"),
        (lambda: HeatbathSUN(U1_2D), "use HMC"),
        (lambda: OverrelaxationSUN(WilsonGauge(Geometry((3, 4)), SUN(2), 1.0)), "even extents"),
        (lambda: LocalMetropolis(PHI4, -1.0), "positive, finite proposal width"),
        (lambda: LocalMetropolis(PHI4, hits=0), "at least one hit"),
        (lambda: LocalMetropolis(0.5 * (PHI4 + Unknown())), "local terms of Unknown"),
        (lambda: Composite(()), "at least one kernel"),
        (lambda: Composite((HMC(PHI4),), (0,)), "positive repeats"),
        (lambda: heatbath_sweep(U1_2D, -1), "overrelaxation"),
    ],
)
def test_impossible_kernels_are_refused_with_a_remedy(build, message):
    with pytest.raises(ValueError, match=message):
        build()
