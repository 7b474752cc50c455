"""What molecular dynamics with fermions kicks with, term by term: forces on the way, energies at the ends, work done."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float, Inexact, PyTree

from latflow.actions.base import AbstractAction
from latflow.actions.pseudofermion import Pseudofermion
from latflow.precision import working_dtype
from latflow.solvers import SolveInfo, forecast

Field = Inexact[Array, "..."]


class Tally(eqx.Module):
    """Linear solves: their iterations and number, in float64, whether all converged, and the largest relative residual of those
    that did not, zero if there are none."""

    iterations: Float[Array, "..."]
    solves: Float[Array, "..."]
    converged: Bool[Array, "..."]
    residual: Float[Array, "..."]

    @classmethod
    def of(cls, info: SolveInfo | None = None) -> Tally:
        """One solve, or none."""
        zero = jnp.zeros((), working_dtype())
        if info is None:
            return cls(zero, zero, jnp.asarray(True), zero)
        residual = jnp.where(jnp.isfinite(info.residual), info.residual, jnp.inf).astype(zero.dtype)
        return cls(info.iterations.astype(zero.dtype), zero + 1, info.converged, jnp.where(info.converged, zero, residual))

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.iterations + other.iterations,
            self.solves + other.solves,
            self.converged & other.converged,
            jnp.maximum(self.residual, other.residual),
        )

    def sum(self) -> Tally:
        """Of a batch, the whole."""
        return Tally(jnp.sum(self.iterations), jnp.sum(self.solves), jnp.all(self.converged), jnp.max(self.residual))

    @property
    def mean(self) -> Float[Array, "..."]:
        """Iterations per solve."""
        return self.iterations / jnp.maximum(self.solves, 1)


class AbstractForceTerm(eqx.Module):
    """A part of the action. A memory goes through all evaluations of its force on a trajectory, and then into the energy."""

    @abc.abstractmethod
    def blank(self, field: Field) -> PyTree:
        """The memory before the first evaluation."""

    @abc.abstractmethod
    def force(self, field: Field, memory: PyTree) -> tuple[Field, PyTree]:
        """(force, memory)."""

    @abc.abstractmethod
    def energy(self, field: Field, memory: PyTree) -> tuple[Float[Array, ""], Tally]:
        """The value at the field of the last evaluation, and the solve it took."""

    @abc.abstractmethod
    def tally(self, memory: PyTree) -> Tally:
        """The solves of all evaluations of the force."""


class BosonicTerm(AbstractForceTerm):
    """An action in closed form; its memory is its last value."""

    action: AbstractAction

    def blank(self, field: Field) -> Float[Array, ""]:
        return jnp.zeros((), working_dtype())

    def force(self, field: Field, memory: Float[Array, ""]) -> tuple[Field, Float[Array, ""]]:
        value, force = self.action.value_and_force(field)
        return force, value

    def energy(self, field: Field, memory: Float[Array, ""]) -> tuple[Float[Array, ""], Tally]:
        return memory, Tally.of()

    def tally(self, memory: Float[Array, ""]) -> Tally:
        return Tally.of()


class _Solutions(eqx.Module):
    """The latest solutions, last first, and the work they took."""

    latest: Complex[Array, "slots ..."]
    tally: Tally


class PseudofermionTerm(AbstractForceTerm):
    """A pseudofermion action whose forces are solved to its own `tol` in the precision of the field, and whose energy to
    `action_tol` in the working precision.

    Solves of the force start from zero, or with `history` > 0 from the forecast of as many solutions before. Until there are as
    many the missing ones are zero, which adds nothing to the space in which the forecast minimises.
    """

    action: Pseudofermion
    action_tol: float = eqx.field(static=True)
    history: int = eqx.field(static=True)

    def blank(self, field: Field) -> _Solutions:
        return _Solutions(jnp.zeros((max(self.history, 1), *self.action.phi.shape), self.action.phi.dtype), Tally.of())

    def force(self, field: Field, memory: _Solutions) -> tuple[Field, _Solutions]:
        solved = self.action.solved(field, self._guess(field, memory.latest) if self.history else None)
        latest = jnp.concatenate([solved.solution[None], memory.latest[:-1]])
        return solved.force, _Solutions(latest, memory.tally + Tally.of(solved.info))

    def energy(self, field: Field, memory: _Solutions) -> tuple[Float[Array, ""], Tally]:
        field, phi, guess = doubled(field), doubled(self.action.phi), doubled(memory.latest[0])
        tight = Pseudofermion(self.action.monomial, phi, self.action_tol, self.action.max_iterations)
        solution, info = tight.solve(field, guess)
        return tight.monomial.value(field, phi, solution), Tally.of(info)

    def tally(self, memory: _Solutions) -> Tally:
        return memory.tally

    def _guess(self, field: Field, latest: Complex[Array, "slots ..."]) -> Complex[Array, "..."]:
        return forecast(self.action.shifted(field), self.action.phi, latest)


def doubled(x: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
    """x in the working precision."""
    return x.astype(jnp.result_type(x.dtype, working_dtype()))


def force_of(terms: Sequence[AbstractForceTerm]):
    """The force of several terms as a function (field, memories) -> (force, memories)."""

    def evaluate(field: Field, memories: tuple[PyTree, ...]) -> tuple[Field, tuple[PyTree, ...]]:
        total, new = None, []
        for term, memory in zip(terms, memories, strict=True):
            force, memory = term.force(field, memory)
            total = force if total is None else total + force
            new.append(memory)
        return total, tuple(new)  # type: ignore[return-value]

    return evaluate
