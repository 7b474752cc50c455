"""Hybrid Monte Carlo with dynamical fermions: pseudofermions from a heatbath, forces from solves, several time scales."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PRNGKeyArray

from latflow.actions.base import AbstractAction, coupling
from latflow.actions.pseudofermion import Mass, Monomial, OddSites, Pseudofermion, monomials
from latflow.dirac import AbstractFermion
from latflow.kernels.base import AbstractKernel, Info, State, require_positive
from latflow.kernels.force_terms import AbstractForceTerm, BosonicTerm, PseudofermionTerm, Tally, doubled, force_of
from latflow.kernels.integrators import INTEGRATORS, Integrator
from latflow.kernels.nested import TimeScale, integrate_nested
from latflow.precision import working_dtype

Field = Inexact[Array, "..."]
Drawn = tuple[tuple[Pseudofermion, ...], ...]
BOSONS = "bosons"


@dataclasses.dataclass(frozen=True)
class Level:
    """One time scale: what is kicked on it, `BOSONS` (the bosonic action, with log |det A_oo|) or numbers of monomials (0 is
    the lightest), its integrator, and its steps per drift of the level above, or per trajectory for the outermost one.

    Raises ValueError for no terms, an unknown integrator or a number of steps that is not a positive integer.
    """

    terms: tuple[int | str, ...]
    num_steps: int = 1
    integrator: str | Integrator = "omelyan2"

    def __post_init__(self) -> None:
        object.__setattr__(self, "terms", tuple(self.terms))
        if not self.terms:
            raise ValueError("a level without terms kicks nothing; leave it out")
        if isinstance(self.num_steps, bool) or int(self.num_steps) != self.num_steps or self.num_steps < 1:
            raise ValueError(f"a level needs a positive whole number of steps, got num_steps={self.num_steps!r}")
        if isinstance(self.integrator, str):
            if self.integrator not in INTEGRATORS:
                raise ValueError(f"unknown integrator {self.integrator!r}; choose one of {', '.join(INTEGRATORS)}")
            object.__setattr__(self, "integrator", INTEGRATORS[self.integrator])


class PseudofermionHMC(AbstractKernel):
    """Hybrid Monte Carlo for exp(-S) (det D D^dagger)^(Nf/2), S the bosonic `action` and D the operator of `fermion`.

    Each trajectory draws momenta and, for every monomial of Eq. (38) of 2207.08945 and every pair of flavours, a pseudofermion
    (`actions.pseudofermion`), integrates <P, P>/2 + S + S_pf on the time scales of `levels` and is accepted with probability
    min(1, exp(-dH)). `State.action` is S alone: the logarithm of the determinant is not known. `Info.delta_action` is dH. A
    trajectory that ends in a non-finite energy, or on which any solve failed to converge, is rejected and reported by
    `Info.finite` and `Info.solver_failed`, with dH = inf for failed solves.

    `step_size` is that of the outermost level and, as in `HMC`, an array leaf that `tune_step_size` tunes, scaled by `jitter`.
    Solves for the force stop at the relative residual `force_tol` (default 1e-7, for single-precision fields 1e-4), those for
    the energies at both ends and for the heatbath, in double precision whatever the field, at `action_tol` (1e-8; the energies
    are wrong by its square times a condition number). A force is a function of the field however roughly it is solved, so
    `force_tol` costs acceptance but not exactness; too small a one is never reached in single precision. With `history` > 0 a
    solve for the force starts from the `forecast` of the last solutions of its monomial on the trajectory, which saves
    iterations and breaks reversibility to the extent of `force_tol`: tighten it.

    With a `regulator` mu_0 > 0 the weight is det(M + mu_0) in place of det M, to be reweighted.
    """

    action: AbstractAction
    fermion: AbstractFermion
    masses: tuple[Mass, ...]
    step_size: Float[Array, ""]
    regulator: Mass
    flavours: int = eqx.field(static=True)
    even_odd: bool = eqx.field(static=True)
    levels: tuple[Level, ...] = eqx.field(static=True)
    jitter: float = eqx.field(static=True)
    force_tol: float | None = eqx.field(static=True)
    action_tol: float | None = eqx.field(static=True)
    max_iterations: int = eqx.field(static=True)
    history: int = eqx.field(static=True)

    def __init__(
        self,
        action: AbstractAction,
        fermion: AbstractFermion,
        masses: Sequence[Mass] = (),
        tau: float = 1.0,
        num_steps: int | None = None,
        levels: Sequence[Level] | None = None,
        step_size: float | None = None,
        jitter: float = 0.0,
        *,
        flavours: int = 2,
        even_odd: bool = True,
        regulator: Mass = 0.0,
        force_tol: float | None = None,
        action_tol: float | None = None,
        max_iterations: int = 1000,
        history: int = 0,
    ):
        """`levels`, outermost first, default to all monomials on 10 steps and the bosons on two per drift of theirs;
        `num_steps` replaces the number of steps of the outermost, `step_size` replaces tau/num_steps.

        Raises ValueError for an odd number of flavours, fermions that do not live on the field of the action, levels that do
        not name every term once, and impossible values.
        """
        if action.geometry != fermion.geometry or action.group != fermion.group:
            raise ValueError(
                f"the fermions couple to a field of {fermion.group} on {fermion.geometry.shape}, the action is of one of "
                f"{action.group} on {action.geometry.shape}"
            )
        if isinstance(flavours, bool) or flavours < 2 or flavours % 2:
            raise ValueError(f"pseudofermions come with pairs of flavours: 2, 4, ...; got {flavours!r}")
        self.masses = tuple(masses)
        terms = (BOSONS, *range(len(self.masses) + 1))
        levels = tuple(levels or (Level(terms[1:], 10), Level((BOSONS,), 2)))
        if num_steps is not None:
            levels = (dataclasses.replace(levels[0], num_steps=num_steps), *levels[1:])
        named = [term for level in levels for term in level.terms]
        if sorted(map(str, named)) != sorted(map(str, terms)):
            raise ValueError(f"the levels must name each of {list(terms)} once, got {named}")
        if step_size is None:
            require_positive("tau", tau, "the trajectory length in molecular-dynamics time, typically 0.5 to 2")
            step_size = tau / levels[0].num_steps
        require_positive("step_size", step_size, "try 0.1")
        for name, tol in (("force_tol", force_tol), ("action_tol", action_tol)):
            if tol is not None:
                require_positive(name, tol, "a relative residual, typically 1e-8")
        if not 0 <= jitter < 1:
            raise ValueError(f"HMC needs 0 <= jitter < 1 (the step size must stay positive), got {jitter!r}")
        if max_iterations < 1 or history < 0:
            raise ValueError(f"HMC needs max_iterations >= 1 and history >= 0, got {max_iterations!r} and {history!r}")
        monomials(fermion, masses, regulator=regulator, even_odd=even_odd)  # refuses what is impossible
        self.action = action
        self.fermion = fermion
        self.step_size = jnp.asarray(step_size, float)
        self.regulator = regulator
        self.flavours = int(flavours)
        self.even_odd = even_odd
        self.levels = levels
        self.jitter = float(jitter)
        self.force_tol = force_tol
        self.action_tol = action_tol
        self.max_iterations = int(max_iterations)
        self.history = int(history)

    @property
    def monomials(self) -> tuple[Monomial, ...]:
        """The factors of the determinant of one pair of flavours, lightest first."""
        return monomials(self.fermion, self.masses, regulator=self.regulator, even_odd=self.even_odd)

    @property
    def num_steps(self) -> int:
        """Steps of the outermost level."""
        return self.levels[0].num_steps

    @property
    def tau(self) -> Float[Array, ""]:
        """Trajectory length."""
        return self.num_steps * self.step_size

    def with_step_size(self, step_size: float | Float[Array, ""]) -> PseudofermionHMC:
        """The same kernel with another step size, at the same number of steps."""
        return eqx.tree_at(lambda kernel: kernel.step_size, self, jnp.asarray(step_size, self.step_size.dtype))

    def with_tau(self, tau: float) -> PseudofermionHMC:
        """A kernel of trajectory length `tau`: the number of steps that comes nearest at a step size no larger than now."""
        require_positive("tau", tau, "the trajectory length in molecular-dynamics time, typically 0.5 to 2")
        num_steps = max(1, math.ceil(tau / float(self.step_size) * (1 - 1e-9)))
        return PseudofermionHMC(
            self.action,
            self.fermion,
            self.masses,
            tau,
            num_steps,
            self.levels,
            jitter=self.jitter,
            flavours=self.flavours,
            even_odd=self.even_odd,
            regulator=self.regulator,
            force_tol=self.force_tol,
            action_tol=self.action_tol,
            max_iterations=self.max_iterations,
            history=self.history,
        )

    def init(self, field: Field) -> State:
        return State(field, self.action(field))

    def step(self, key: PRNGKeyArray, state: State) -> tuple[State, Info]:
        group = self.action.group
        momentum_key, accept_key, jitter_key, noise_key = jax.random.split(key, 4)
        momentum = group.random_algebra(momentum_key, state.field.shape[len(group.colour_shape) :], state.field.dtype)
        step_size = coupling(self.step_size, state.field)
        if self.jitter:
            step_size = step_size * jax.random.uniform(jitter_key, (), step_size.dtype, 1 - self.jitter, 1 + self.jitter)
        pseudofermions, drawn = self.heatbath(noise_key, state.field)
        end = self.trajectory(pseudofermions, state.field, momentum, step_size)
        tally = drawn + end.tally
        finite = tally.converged & jnp.isfinite(end.delta)
        delta = jnp.where(tally.converged, end.delta, jnp.inf)
        acceptance = jnp.where(finite, jnp.exp(-jnp.maximum(delta, 0)), 0)
        accepted = jax.random.uniform(accept_key, (), delta.dtype) < acceptance
        proposal = State(group.reunitarise(end.field)[0], end.action)
        state = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), proposal, state)
        return state, Info(acceptance, accepted, delta, finite, tally.mean, ~tally.converged, tally.residual)

    def heatbath(self, key: PRNGKeyArray, field: Field) -> tuple[Drawn, Tally]:
        """(for every monomial one pseudofermion per pair of flavours, the solves this took)."""
        force_tol, action_tol = self._tolerances(field)
        fine, drawn, tally, pairs = doubled(field), [], Tally.of(), self.flavours // 2
        for i, monomial in enumerate(self.monomials):
            drawn.append([])
            for pair in range(pairs):
                eta = monomial.noise(jax.random.fold_in(key, i * pairs + pair), fine)
                phi, info = monomial.heatbath(fine, eta, tol=action_tol, max_iterations=self.max_iterations)
                phi = phi.astype(jnp.result_type(field.dtype, jnp.complex64))
                drawn[-1].append(Pseudofermion(monomial, phi, force_tol, self.max_iterations))
                tally = tally + Tally.of(info)
        return tuple(tuple(pseudofermions) for pseudofermions in drawn), tally

    def trajectory(self, pseudofermions: Drawn, field: Field, momentum: Field, step_size: Float[Array, ""]) -> Trajectory:
        """Molecular dynamics with pseudofermions as `heatbath` gives them. `step_size` may be negative."""
        terms = [self._terms(level, pseudofermions, field) for level in self.levels]
        scales = [
            TimeScale(level.integrator, level.num_steps, force_of(parts))  # type: ignore[arg-type]
            for level, parts in zip(self.levels, terms, strict=True)
        ]
        begun = [
            scale.evaluate(field, tuple(part.blank(field) for part in parts))
            for scale, parts in zip(scales, terms, strict=True)
        ]
        forces, memories = zip(*begun, strict=True)
        new, end, _, ends = integrate_nested(scales, self.action.group, field, momentum, forces, memories, step_size)
        # <P', P'> - <P, P> as one product of small and large: the difference of two sums loses digits in single precision
        delta, tally = self.action.group.inner(end - momentum, end + momentum) / 2, Tally.of()
        for parts, first, last in zip(terms, memories, ends, strict=True):
            for part, start, stop in zip(parts, first, last, strict=True):
                # mapped, so that the solve is compiled once
                both = jax.tree.map(lambda a, b: jnp.stack([a, b]), (field, start), (new, stop))
                values, tallies = jax.lax.map(lambda at, part=part: part.energy(*at), both)
                delta = delta + (values[1] - values[0])
                tally = tally + tallies.sum() + part.tally(stop)
        return Trajectory(new, end, self.action(new), delta, tally)

    def _tolerances(self, field: Field) -> tuple[float, float]:
        single, single_energies = (jnp.finfo(dtype).bits == 32 for dtype in (field.dtype, working_dtype()))
        return self.force_tol or (1e-4 if single else 1e-7), self.action_tol or (1e-4 if single_energies else 1e-8)

    def _terms(self, level: Level, pseudofermions: Drawn, field: Field) -> list[AbstractForceTerm]:
        action_tol, terms = self._tolerances(field)[1], []
        for name in level.terms:
            if isinstance(name, int):
                terms += [PseudofermionTerm(action, action_tol, self.history) for action in pseudofermions[name]]
                continue
            action = self.action
            if self.even_odd and not (rest := OddSites(self.fermion)).trivial(field):
                action = action + (self.flavours // 2) * rest
            terms.append(BosonicTerm(action))
        return terms


class Trajectory(NamedTuple):
    """The end of a trajectory: field, momentum, the bosonic action there, dH, and the linear solves on the way."""

    field: Field
    momentum: Field
    action: Float[Array, ""]
    delta: Float[Array, ""]
    tally: Tally
