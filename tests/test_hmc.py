"""Molecular dynamics: reversibility, volume, order of convergence; HMC: bad trajectories, tuning, no recompilation."""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latflow.actions import AbstractAction, Phi4, WilsonGauge, autodiff_value_and_force
from latflow.groups import SUN, U1, AbstractGroup, RealLine
from latflow.kernels import HMC, INTEGRATORS, Integrator, LocalMetropolis, State, integrate, tune_step_size
from latflow.lattice import Geometry

ORDERS = {"leapfrog": 2, "omelyan2": 2, "omelyan4": 4, "force-gradient": 4}
U1_ACTION = WilsonGauge(Geometry((4, 6)), U1(), 1.7)
ACTIONS = {"U1": U1_ACTION, "SU2": WilsonGauge(Geometry((2, 4)), SUN(2), 2.2)}
PHI4 = Phi4(Geometry((3,)), -1.0, 0.8)
CHAINS, STEPS = 8, 5


def rough(theory: str) -> tuple[np.ndarray, np.ndarray]:
    """A batch of fields drawn from the Haar measure, and of momenta."""
    rng = np.random.default_rng(7)
    if theory == "U1":
        shape = (CHAINS, *U1_ACTION.field_shape)
        return rng.uniform(-np.pi, np.pi, shape), rng.standard_normal(shape)
    pauli = np.array([[[1, 0], [0, 1]], [[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])
    a, x = rng.standard_normal((2, CHAINS, 4, 2, 2, 4))
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    field = np.einsum("nk...,kij->nij...", a * np.array([1, 1j, 1j, 1j]).reshape(4, 1, 1, 1), pauli)
    return field, np.einsum("nk...,kij->nij...", x[:, 1:], pauli[1:] / 2)


@functools.cache
def trajectory(theory: str, name: str):
    """`STEPS` steps for a batch of (field, momentum, force), compiled once: (field, momentum, force, energy at the end)."""
    action = ACTIONS[theory]

    def one(field, momentum, force, step_size):
        q, p, value, force = integrate(INTEGRATORS[name], action, field, momentum, force, step_size, STEPS)
        return q, p, force, value + action.group.inner(p, p) / 2

    return jax.jit(jax.vmap(one, in_axes=(0, 0, 0, None)))


@functools.cache
def first_force(theory: str):
    action = ACTIONS[theory]
    field, momentum = rough(theory)
    value, force = jax.jit(jax.vmap(action.value_and_force))(field)
    return force, value + jax.vmap(action.group.inner)(momentum, momentum) / 2


@pytest.mark.parametrize("name", INTEGRATORS)
@pytest.mark.parametrize("theory", ACTIONS)
def test_energy_violation_has_the_order_of_the_integrator(theory, name):
    force, energy = first_force(theory)

    def violation(runs):
        step_size = jnp.asarray(0.8 / (runs * STEPS))
        q, p, f = (*rough(theory), force)
        for _ in range(runs):
            q, p, f, end = trajectory(theory, name)(q, p, f, step_size)
        return np.sqrt(np.mean((end - energy) ** 2))

    fine = violation(4)
    assert fine > 1e-10  # far above rounding
    assert np.log2(violation(2) / fine) == pytest.approx(ORDERS[name], abs=0.25)


@pytest.mark.parametrize("name", INTEGRATORS)
@pytest.mark.parametrize("theory", ACTIONS)
def test_trajectories_are_reversible(theory, name):
    field, momentum = rough(theory)
    force, energy = first_force(theory)
    step_size = jnp.asarray(0.2)
    q, p, f, _ = trajectory(theory, name)(field, momentum, force, step_size)
    assert np.max(np.abs(q - field)) > 0.1
    q, p, f, end = trajectory(theory, name)(q, -p, f, step_size)
    for back, start in [(q, field), (-p, momentum), (f, force), (end, energy)]:
        np.testing.assert_allclose(back, start, atol=1e-10)


@pytest.mark.parametrize("name", INTEGRATORS)
def test_trajectories_preserve_volume(name):
    z, n = np.random.default_rng(1).standard_normal(6), 3

    def run(z):
        q, p = z[:n], z[n:]
        q, p, _, _ = integrate(INTEGRATORS[name], PHI4, q, p, PHI4.force(q), jnp.asarray(0.3), 3)
        return jnp.concatenate([q, p])

    jacobian = np.asarray(jax.jit(jax.jacfwd(run))(z))
    assert np.max(np.abs(jacobian - np.eye(2 * n))) > 0.1
    np.testing.assert_allclose(np.linalg.det(jacobian), 1, atol=1e-10)
    # a force at a displaced field is not a gradient, so the force-gradient step keeps the volume but not the symplectic form
    if name != "force-gradient":
        omega = np.kron(np.array([[0, 1], [-1, 0]]), np.eye(n))
        np.testing.assert_allclose(jacobian.T @ omega @ jacobian, omega, atol=1e-10)


def test_force_evaluations_per_step_are_as_stated():
    count = 0

    class Counting(AbstractAction):
        geometry: Geometry = eqx.field(static=True)
        group: AbstractGroup

        def __call__(self, field):
            return jnp.sum(field**2)

        def value_and_force(self, field):
            nonlocal count
            count += 1
            return autodiff_value_and_force(self, field)

    action, q = Counting(Geometry((2,)), RealLine()), jnp.ones(2)
    for integrator in INTEGRATORS.values():
        count = 0
        # the loop body is traced once
        jax.make_jaxpr(lambda q, integrator=integrator: integrate(integrator, action, q, q, q, jnp.asarray(0.1), 7))(q)
        assert count == integrator.force_evaluations


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kicks": (0.5, 0.5), "drifts": (0.5, 0.5)}, "one kick more"),
        ({"kicks": (0.4, 0.6), "drifts": (1.0,)}, "backwards"),
        ({"kicks": (0.4, 0.4), "drifts": (1.0,)}, "sum to 1"),
        ({"kicks": (0.5, 0.5), "drifts": (1.0,), "displacements": (0.1, 0.1)}, "cached force"),
    ],
)
def test_inconsistent_tables_are_refused(table, message):
    with pytest.raises(ValueError, match=message):
        Integrator(2, **table)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"tau": 0.0}, "positive, finite tau"),
        ({"tau": float("nan")}, "positive, finite tau"),
        ({"num_steps": 0}, "whole number of steps"),
        ({"num_steps": True}, "whole number of steps"),
        ({"step_size": -0.1}, "positive, finite step_size"),
        ({"integrator": "rk4"}, "choose one of leapfrog"),
        ({"jitter": 1.0}, "jitter"),
    ],
)
def test_impossible_parameters_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        HMC(U1_ACTION, **kwargs)


def test_trajectories_that_blow_up_are_rejected_and_reported():
    action = Phi4(Geometry((4, 4)), 1.0, 5.0)
    kernel = HMC(action, step_size=20.0, num_steps=20, integrator="leapfrog")
    state = eqx.filter_jit(kernel.init)(jnp.ones((4, 4)))
    new, info = eqx.filter_jit(kernel.step)(jax.random.key(0), state)
    assert not info.finite and not info.accepted and info.acceptance == 0
    for a, b in zip(new, state, strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_step_size_does_not_compile_again_and_tau_can_be_restored():
    traces = 0

    @eqx.filter_jit
    def step(kernel, key, state):
        nonlocal traces
        traces += 1
        return kernel.step(key, state)

    kernel = HMC(U1_ACTION, 1.0, 5)
    state = eqx.filter_jit(kernel.init)(jnp.zeros(U1_ACTION.field_shape))
    energies = {float(step(kernel.with_step_size(eps), jax.random.key(0), state)[1].delta_action) for eps in (0.1, 0.2, 0.3)}
    assert traces == 1 and len(energies) == 3
    assert float(kernel.with_step_size(0.3).tau) == pytest.approx(1.5)
    retimed = kernel.with_step_size(0.3).with_tau(1.0)
    assert retimed.num_steps == 4 and float(retimed.tau) == pytest.approx(1.0)
    assert kernel.with_tau(1.0).num_steps == 5


def width(kernel):
    return kernel.width


@pytest.mark.parametrize("kind", ["HMC", "local"])
def test_tuning_reaches_its_target(kind):
    chains, target = 64, 0.75 if kind == "HMC" else 0.5
    kernel = HMC(U1_ACTION, 0.2, 4, "leapfrog") if kind == "HMC" else LocalMetropolis(U1_ACTION, 0.05)
    options = {} if kind == "HMC" else {"where": width}
    # a cold start: warm-up has to cope with it
    fields = jnp.zeros((chains, *U1_ACTION.field_shape))
    tuned = tune_step_size(kernel, jax.random.key(1), jax.jit(jax.vmap(kernel.init))(fields), target, 150, **options)
    assert tuned.acceptance.shape == tuned.step_size.shape == (150,)

    @eqx.filter_jit
    def run(kernel, states):
        def one(states, i):
            states, info = jax.vmap(kernel.step)(jax.random.split(jax.random.fold_in(jax.random.key(2), i), chains), states)
            return states, info.acceptance

        return jax.lax.scan(one, states, jnp.arange(40))[1]

    assert float(jnp.mean(run(kernel, tuned.states))) > 0.9
    assert float(jnp.mean(run(tuned.kernel, tuned.states))) == pytest.approx(target, abs=0.05)


def test_tuning_refuses_what_it_cannot_do():
    kernel = HMC(U1_ACTION)
    state = State(jnp.zeros((2, *U1_ACTION.field_shape)), jnp.zeros(2))
    for kwargs, message in [
        ({"target_acceptance": 1.0}, "between 0 and 1"),
        ({"num_steps": 3}, "at least 20"),
        ({"where": lambda kernel: kernel.action}, "no step size"),
    ]:
        with pytest.raises(ValueError, match=message):
            tune_step_size(kernel, jax.random.key(0), state, **kwargs)
    with pytest.raises(ValueError, match="no step size"):
        tune_step_size(LocalMetropolis(U1_ACTION), jax.random.key(0), state)
