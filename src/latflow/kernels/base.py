"""The interface of Markov-chain kernels: pure, vmappable over chains and replicas."""

from __future__ import annotations

import abc
import math
from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, Bool, Float, Inexact, PRNGKeyArray


class State(NamedTuple):
    """What the next step needs: the configuration, its action, and the force if the kernel caches one (else None)."""

    field: Inexact[Array, "..."]
    action: Float[Array, ""]
    force: Any = None


class Info(NamedTuple):
    """Diagnostics of one step. `acceptance` is the acceptance probability (or fraction, for local updates) in [0, 1].

    Kernels that solve linear systems also report `solver_iterations`, the mean number of iterations per solve in float64, and
    `solver_failed`, whether any solve did not converge; such a step is rejected and not `finite`. `solver_residual` is the
    largest relative residual of the solves that did not, zero if there are none.
    """

    acceptance: Float[Array, ""]
    accepted: Bool[Array, ""]
    delta_action: Float[Array, ""]
    finite: Bool[Array, ""]
    solver_iterations: Float[Array, ""] | None = None
    solver_failed: Bool[Array, ""] | None = None
    solver_residual: Float[Array, ""] | None = None


class AbstractKernel(eqx.Module):
    """One Markov step that leaves exp(-S) invariant."""

    @abc.abstractmethod
    def init(self, field: Inexact[Array, "..."]) -> State:
        """State for a starting configuration."""

    @abc.abstractmethod
    def step(self, key: PRNGKeyArray, state: State) -> tuple[State, Info]:
        """The next state and the diagnostics of the step."""


def require_positive(name: str, value: float, advice: str) -> None:
    """Raise ValueError unless a parameter of HMC is positive and finite."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"HMC needs a positive, finite {name} ({advice}), got {value!r}")
