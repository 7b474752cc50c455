"""Nested integrators: one scale is `integrate`, several are reversible, of the stated order, and frugal with forces."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from contracts import pool
from fermion_cases import quick_jit

from latflow.actions import WilsonGauge
from latflow.groups import SUN
from latflow.kernels import INTEGRATORS, TimeScale, integrate, integrate_nested
from latflow.lattice import Geometry

ACTION = WilsonGauge(Geometry((2, 4)), SUN(2), 2.2)
SHAPE = ACTION.field_shape
FIELD, WEIGHT = (sites[..., :16].reshape(SHAPE) for sites in (pool(ACTION.group, 0)[0], pool(ACTION.group, 1)[0]))
MOMENTUM = (2 * pool(ACTION.group, 2)[1])[..., :16].reshape(SHAPE)
STEPS = 4


def slow(field):
    """A second action, Re Tr sum U W: (value, force) in closed form."""
    product = ACTION.group.multiply(field, WEIGHT)
    return jnp.sum(ACTION.group.re_trace(product)), ACTION.group.trace_gradient(product)


def counted(value_and_force):
    """An evaluation whose memory is (last value, number of evaluations)."""

    def evaluate(field, memory):
        value, force = value_and_force(field)
        return force, (value, memory[1] + 1)

    return evaluate


@functools.cache
def trajectory(tables: tuple[str, ...], inner_steps: int = 2):
    """`STEPS` steps for a field and momentum, compiled once: (field, momentum, H at the start, H, evaluations of forces)."""
    parts = [counted(slow), counted(ACTION.value_and_force)][-len(tables) :]
    numbers = (STEPS, inner_steps)
    scales = [TimeScale(INTEGRATORS[table], n, part) for table, n, part in zip(tables, numbers, parts, strict=False)]

    @quick_jit
    def run(field, momentum, step_size):
        blank = (jnp.zeros(()), jnp.zeros((), jnp.int32))
        forces, memories = zip(*[scale.evaluate(field, blank) for scale in scales], strict=True)
        q, p, _, ends = integrate_nested(scales, ACTION.group, field, momentum, forces, memories, step_size)
        start, stop = (
            sum(value for value, _ in memory) + ACTION.group.inner(x, x) / 2 for memory, x in ((memories, momentum), (ends, p))
        )
        return q, p, start, stop, [count - 1 for _, count in ends]

    return run


@pytest.mark.parametrize("table", INTEGRATORS)
def test_one_scale_is_the_plain_integrator(table):
    force = ACTION.force(FIELD)
    plain = quick_jit(lambda q, p: integrate(INTEGRATORS[table], ACTION, q, p, force, jnp.asarray(0.1), STEPS))(FIELD, MOMENTUM)
    q, p, _, _, (count,) = trajectory((table,))(FIELD, MOMENTUM, jnp.asarray(0.1))
    np.testing.assert_allclose(q, plain[0], atol=1e-13)
    np.testing.assert_allclose(p, plain[1], atol=1e-13)
    assert count == STEPS * INTEGRATORS[table].force_evaluations


CASES = {
    ("leapfrog", "leapfrog"): 2,
    ("omelyan2", "omelyan4"): 2,
    ("omelyan4", "omelyan4"): 4,
    ("force-gradient", "force-gradient"): 4,
}


@pytest.mark.parametrize("tables", CASES, ids="-".join)
def test_two_scales_are_reversible_and_of_their_order(tables):
    def violation(runs):
        q, p, change = FIELD, MOMENTUM, 0.0
        for _ in range(runs):
            q, p, start, end, _ = trajectory(tables)(q, p, jnp.asarray(0.6 / (runs * STEPS)))
            change += float(end - start)
        return abs(change)

    fine = violation(4)
    assert fine > 1e-10  # far above rounding
    assert np.log2(violation(2) / fine) == pytest.approx(CASES[tables], abs=0.3)
    q, p, _, _, counts = trajectory(tables)(FIELD, MOMENTUM, jnp.asarray(0.2))
    assert np.max(np.abs(q - FIELD)) > 0.1
    back = trajectory(tables)(q, -p, jnp.asarray(0.2))
    np.testing.assert_allclose(back[0], FIELD, atol=1e-11)
    np.testing.assert_allclose(-back[1], MOMENTUM, atol=1e-11)
    outer, inner = (INTEGRATORS[table] for table in tables)
    assert counts == [STEPS * outer.force_evaluations, STEPS * len(outer.drifts) * 2 * inner.force_evaluations]


def test_inner_steps_resolve_a_fast_force():
    """With the fast force on the inner scale, finer inner steps at equal outer ones reduce the energy violation."""
    violations = []
    for inner_steps in (1, 4):
        _, _, start, end, _ = trajectory(("leapfrog", "leapfrog"), inner_steps)(FIELD, MOMENTUM, jnp.asarray(0.2))
        violations.append(abs(end - start))
    assert violations[1] < violations[0]
