"""Several kernels as one: each leaves exp(-S) invariant, so does their sequence."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, PRNGKeyArray

from latflow.actions import AbstractAction
from latflow.groups import SUN
from latflow.kernels.base import AbstractKernel, Info, State
from latflow.kernels.heatbath import HeatbathU1, OverrelaxationU1
from latflow.kernels.heatbath_sun import HeatbathSUN, OverrelaxationSUN


class Composite(AbstractKernel):
    """One sweep = kernels[0] repeated repeats[0] times, then kernels[1] repeats[1] times, and so on.

    All kernels must sample the same action, which is evaluated once per sweep (kernels that need it or the force at their
    start evaluate it again). `Info.acceptance` is the mean over all steps, `accepted` whether any step was accepted,
    `delta_action` the change of S over the sweep, `finite` whether every step was.

    Raises ValueError for no kernels, or a number of repeats that is not a positive integer per kernel.
    """

    kernels: tuple[AbstractKernel, ...]
    repeats: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, kernels: tuple[AbstractKernel, ...], repeats: tuple[int, ...] | None = None):
        kernels = tuple(kernels)
        repeats = (1,) * len(kernels) if repeats is None else tuple(repeats)
        if not kernels:
            raise ValueError("a composite needs at least one kernel")
        if len(repeats) != len(kernels) or any(isinstance(n, bool) or int(n) != n or n < 1 for n in repeats):
            raise ValueError(f"a composite of {len(kernels)} kernels needs as many positive repeats, got {repeats!r}")
        self.kernels = kernels
        self.repeats = tuple(int(n) for n in repeats)

    def init(self, field: Inexact[Array, "..."]) -> State:
        return State(field, self.kernels[0].init(field).action)

    def step(self, key: PRNGKeyArray, state: State) -> tuple[State, Info]:
        field, outcomes = state.field, []
        for kernel, repeat, kernel_key in zip(
            self.kernels, self.repeats, jax.random.split(key, len(self.kernels)), strict=True
        ):
            field, outcome = _repeated(kernel, repeat, kernel_key, field)
            outcomes.append(outcome)
        acceptance = sum(outcome[0] for outcome in outcomes) / sum(self.repeats)
        accepted = jnp.any(jnp.stack([outcome[1] for outcome in outcomes]))
        finite = jnp.all(jnp.stack([outcome[2] for outcome in outcomes]))
        new = self.init(field)
        return new, Info(jnp.asarray(acceptance), accepted, new.action - state.action, finite)


def _repeated(kernel: AbstractKernel, repeat: int, key: PRNGKeyArray, field: Inexact[Array, "..."]):
    """(field, (summed acceptance, any accepted, all finite)) after `repeat` steps.

    Only the field is carried: what `init` computes and `step` does not use is dead code, which the compiler removes.
    """

    def one(field, key):
        state, info = kernel.step(key, kernel.init(field))
        return state.field, (info.acceptance, info.accepted, info.finite)

    field, (acceptance, accepted, finite) = jax.lax.scan(one, field, jax.random.split(key, repeat))
    return field, (jnp.sum(acceptance), jnp.any(accepted), jnp.all(finite))


def heatbath_sweep(action: AbstractAction, overrelaxation: int = 0) -> AbstractKernel:
    """One U(1) or SU(N) heatbath sweep followed by `overrelaxation` reflection sweeps. Raises ValueError as its parts do."""
    matrices = isinstance(action.group, SUN)
    heatbath = HeatbathSUN(action) if matrices else HeatbathU1(action)
    if isinstance(overrelaxation, bool) or int(overrelaxation) != overrelaxation or overrelaxation < 0:
        raise ValueError(f"the number of overrelaxation sweeps must be 0 or a positive integer, got {overrelaxation!r}")
    if overrelaxation == 0:
        return heatbath
    return Composite((heatbath, OverrelaxationSUN(action) if matrices else OverrelaxationU1(action)), (1, overrelaxation))
