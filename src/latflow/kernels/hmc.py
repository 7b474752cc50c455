"""Hybrid Monte Carlo for every group: scalars, U(1) and SU(N) differ only in their group object."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PRNGKeyArray

from latflow.actions.base import AbstractAction, coupling
from latflow.kernels.base import AbstractKernel, Info, State, require_positive
from latflow.kernels.integrators import INTEGRATORS, Integrator, integrate


class HMC(AbstractKernel):
    """Hybrid Monte Carlo (Duane et al., Phys. Lett. B 195 (1987) 216) with H = <P, P>/2 + S.

    Momenta P have density exp(-<P, P>/2) in the algebra; a trajectory of `num_steps` steps of `step_size` (in units of
    molecular-dynamics time) is accepted with probability min(1, exp(-dH)). A trajectory that ends in a non-finite energy is
    rejected and reported by `Info.finite`; `Info.delta_action` is dH. Links are projected back on the group after every
    trajectory, U(1) angles are wrapped.

    `step_size` is an array leaf: it can be changed (`with_step_size`, `tune_step_size`) without a new compilation, and the
    trajectory length changes with it. With `jitter` > 0 each trajectory multiplies it by a number uniform in
    [1 - jitter, 1 + jitter], which breaks the resonances of nearly free theories.
    """

    action: AbstractAction
    step_size: Float[Array, ""]
    num_steps: int = eqx.field(static=True)
    integrator: Integrator = eqx.field(static=True)
    jitter: float = eqx.field(static=True)

    def __init__(
        self,
        action: AbstractAction,
        tau: float = 1.0,
        num_steps: int = 10,
        integrator: str | Integrator = "omelyan2",
        step_size: float | None = None,
        jitter: float = 0.0,
    ):
        """`step_size` replaces tau/num_steps if given. Raises ValueError for impossible values or unknown integrators."""
        if isinstance(num_steps, bool) or int(num_steps) != num_steps or num_steps < 1:
            raise ValueError(f"HMC needs a positive whole number of steps, got num_steps={num_steps!r}")
        if step_size is None:
            require_positive("tau", tau, "the trajectory length in molecular-dynamics time, typically 0.5 to 2")
            step_size = tau / num_steps
        require_positive("step_size", step_size, "try 0.1")
        if not 0 <= jitter < 1:
            raise ValueError(f"HMC needs 0 <= jitter < 1 (the step size must stay positive), got {jitter!r}")
        if isinstance(integrator, str):
            if integrator not in INTEGRATORS:
                raise ValueError(f"unknown integrator {integrator!r}; choose one of {', '.join(INTEGRATORS)}")
            integrator = INTEGRATORS[integrator]
        self.action = action
        self.step_size = jnp.asarray(step_size, float)
        self.num_steps = int(num_steps)
        self.integrator = integrator
        self.jitter = float(jitter)

    @property
    def tau(self) -> Float[Array, ""]:
        """Trajectory length."""
        return self.num_steps * self.step_size

    def with_step_size(self, step_size: float | Float[Array, ""]) -> HMC:
        """The same kernel with another step size, at the same number of steps."""
        return eqx.tree_at(lambda kernel: kernel.step_size, self, jnp.asarray(step_size, self.step_size.dtype))

    def with_tau(self, tau: float) -> HMC:
        """A kernel of trajectory length `tau`: the number of steps that comes nearest at a step size no larger than now."""
        require_positive("tau", tau, "the trajectory length in molecular-dynamics time, typically 0.5 to 2")
        num_steps = max(1, math.ceil(tau / float(self.step_size) * (1 - 1e-9)))
        return HMC(self.action, tau, num_steps, self.integrator, jitter=self.jitter)

    def init(self, field: Inexact[Array, "..."]) -> State:
        return State(field, *self.action.value_and_force(field))

    def step(self, key: PRNGKeyArray, state: State) -> tuple[State, Info]:
        group = self.action.group
        momentum_key, accept_key, jitter_key = jax.random.split(key, 3)
        points = state.field.shape[len(group.colour_shape) :]
        momentum = group.random_algebra(momentum_key, points, state.field.dtype)
        step_size = coupling(self.step_size, state.field)
        if self.jitter:
            step_size = step_size * jax.random.uniform(jitter_key, (), step_size.dtype, 1 - self.jitter, 1 + self.jitter)
        field, end, action, force = integrate(
            self.integrator, self.action, state.field, momentum, state.force, step_size, self.num_steps
        )
        # <P', P'> - <P, P> as one product of small and large: the difference of two sums loses digits in single precision.
        delta = action - state.action + group.inner(end - momentum, end + momentum) / 2
        finite = jnp.isfinite(delta)
        acceptance = jnp.where(finite, jnp.exp(-jnp.maximum(delta, 0)), 0)
        accepted = jax.random.uniform(accept_key, (), delta.dtype) < acceptance
        proposal = State(group.reunitarise(field)[0], action, force)
        state = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), proposal, state)
        return state, Info(acceptance, accepted, delta, finite)
