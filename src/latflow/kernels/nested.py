"""Molecular dynamics on several time scales (J. C. Sexton and D. H. Weingarten, Nucl. Phys. B 380 (1992) 665).

With S = S_0 + S_1 + ..., outermost scale first, a drift of scale k is a whole integration of scale k+1 over that time, and a
drift of the innermost scale moves the field. A kick of scale k uses the force of S_k alone. Kicks of all scales commute, so a
force computed at the end of an integration is still that at the start of the next, whatever outer kicks lie between, and
every scale costs one force evaluation per drift of its own, one more per displaced kick.

A displaced kick moves the field by its own force: the double commutator of force-gradient schemes, {S_k, {S_k, T + S_{k+1} +
...}}, contains no force but that of S_k (0910.2950), so every scale may have any table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PyTree

from latflow.groups import AbstractGroup
from latflow.kernels.integrators import Integrator

Field = Inexact[Array, "..."]
Memory = PyTree


class TimeScale(NamedTuple):
    """One part of the action: its table, the number of its steps per drift of the scale above (of the outermost: per
    trajectory), and `evaluate(field, memory) -> (force, memory)`. The memory is what evaluations hand on to later ones (values,
    solutions, counters), of fixed structure and types."""

    integrator: Integrator
    num_steps: int
    evaluate: Callable[[Field, Memory], tuple[Field, Memory]]


class _Phase(NamedTuple):
    field: Field
    momentum: Field
    forces: tuple[Field, ...]
    memories: tuple[Memory, ...]


def integrate_nested(
    scales: Sequence[TimeScale],
    group: AbstractGroup,
    field: Field,
    momentum: Field,
    forces: Sequence[Field],
    memories: Sequence[Memory],
    step_size: Float[Array, ""],
) -> tuple[Field, Field, tuple[Field, ...], tuple[Memory, ...]]:
    """`scales[0].num_steps` steps of `step_size` of the outermost scale; (field, momentum, forces, memories) at the end.

    `forces` and `memories`, one per scale, are those at the first field. `step_size` may be traced and may be negative. One
    scale is `integrate`. Every force is compiled once (twice with displaced kicks), whatever the tables.
    """
    eps = step_size.astype(field.real.dtype)

    def advance(k: int, phase: _Phase, eps: Float[Array, ""]) -> _Phase:
        """All steps, each of size eps, of scale k."""
        if k == len(scales):
            return phase._replace(field=group.move(eps * phase.momentum, phase.field))
        table = scales[k].integrator
        inner_steps = scales[k + 1].num_steps if k + 1 < len(scales) else 1

        def row(phase: _Phase, coefficients: tuple[Array, Array, Array]) -> tuple[_Phase, None]:
            drift, kick, displacement = coefficients
            inner = drift * eps
            phase = advance(k + 1, phase, inner / inner_steps if inner_steps > 1 else inner)
            force, memory = scales[k].evaluate(phase.field, phase.memories[k])
            used = force
            if any(table.displacements):

                def displaced(memory: Memory) -> tuple[Field, Memory]:
                    return scales[k].evaluate(group.move(-displacement * eps * eps * force, phase.field), memory)

                used, memory = jax.lax.cond(displacement != 0, displaced, lambda memory: (force, memory), memory)
            momentum = phase.momentum - kick * eps * used
            return _Phase(phase.field, momentum, _put(phase.forces, k, force), _put(phase.memories, k, memory)), None

        phase = phase._replace(momentum=phase.momentum - table.kicks[0] * eps * phase.forces[k])
        return jax.lax.scan(row, phase, _rows(table, scales[k].num_steps, eps.dtype))[0]

    return tuple(advance(0, _Phase(field, momentum, tuple(forces), tuple(memories)), eps))  # type: ignore[return-value]


def _rows(table: Integrator, num_steps: int, dtype: Any) -> tuple[Array, Array, Array]:
    """(drifts, kicks, displacements) of `num_steps` steps in a row; neighbouring steps share a kick."""
    first, *between = table.kicks[:-1]
    kicks = ([*between, 2 * first] * num_steps)[:-1] + [first]
    rows = (list(table.drifts) * num_steps, kicks, list(table.displacements[1:]) * num_steps)
    drifts, kicks, displacements = (jnp.asarray(row, dtype) for row in rows)
    return drifts, kicks, displacements


def _put(values: tuple, k: int, value: Any) -> tuple:
    return (*values[:k], value, *values[k + 1 :])
