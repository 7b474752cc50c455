"""Local Metropolis updates for any group, by parities, with exact local action differences."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact, Int, PRNGKeyArray

from latflow.actions import AbstractAction, FreeScalar, Phi4, Scaled, Sum, WilsonGauge
from latflow.actions.base import coupling
from latflow.groups import U1, RealLine
from latflow.kernels.base import AbstractKernel, Info, State
from latflow.lattice import component, shift
from latflow.loops import staple_sum

Field = Inexact[Array, "..."]
Conditional = Callable[[Field], Float[Array, "*lattice"]]


@functools.singledispatch
def conditional_action(action: AbstractAction, field: Field, mu: int) -> Conditional:
    """The action as a function of the variables of one kind alone, site by site, given the rest of `field`.

    Returns a function that maps proposed links of direction `mu` (for scalars, where `mu` is 0: the field) to the terms of S
    that contain the variable at each site, `(*lattice)`, with its neighbours as they are in `field`. Those terms must not
    contain another variable of the same direction and the same parity: then half of the variables can be updated at once.
    Register an implementation for an action of your own with `conditional_action.register`. Raises ValueError without one.
    """
    raise ValueError(
        f"local updates do not know the local terms of {type(action).__name__}; register them with "
        "`conditional_action.register`, or use HMC"
    )


@conditional_action.register
def _(action: WilsonGauge, field: Field, mu: int) -> Conditional:
    group, factor = action.group, -coupling(action.beta, field) / action.group.Nc
    staples = staple_sum(group, action.geometry, field, mu)
    if isinstance(group, U1):
        size, phase = jnp.abs(staples), jnp.angle(staples)
        return lambda link: factor * size * jnp.cos(link + phase)
    return lambda link: factor * group.re_trace(group.multiply(link, staples))


@conditional_action.register
def _(action: Phi4, field: Field, mu: int) -> Conditional:
    lam, free = coupling(action.lam, field), _free_terms(action, field)
    return lambda phi: free(phi) + lam * phi**4


@conditional_action.register
def _(action: FreeScalar, field: Field, mu: int) -> Conditional:
    return _free_terms(action, field)


def _free_terms(action: Phi4 | FreeScalar, field: Field) -> Conditional:
    Nd = action.geometry.Nd
    neighbours = sum(shift(field, mu, Nd) + shift(field, mu, Nd, -1) for mu in range(Nd))
    diagonal = coupling(action.m2, field) + 2 * Nd
    return lambda phi: phi * (diagonal * phi - 2 * neighbours)


@conditional_action.register
def _(action: Sum, field: Field, mu: int) -> Conditional:
    terms = [conditional_action(term, field, mu) for term in action.terms]
    return lambda variable: sum((term(variable) for term in terms[1:]), terms[0](variable))


@conditional_action.register
def _(action: Scaled, field: Field, mu: int) -> Conditional:
    term, factor = conditional_action(action.term, field, mu), coupling(action.factor, field)
    return lambda variable: factor * term(variable)


class LocalMetropolis(AbstractKernel):
    """One sweep of local Metropolis updates: exp(i width X) U is proposed for U, with X Gaussian of unit variance.

    All variables of one direction and parity are proposed and decided at once, `hits` times in a row. `Info.acceptance` is
    the accepted fraction. `width` is an array leaf: `tune_step_size(..., where=lambda kernel: kernel.width)` tunes it.

    Raises ValueError for an action whose local terms are not known, for odd extents, width <= 0 or hits < 1.
    """

    action: AbstractAction
    width: Float[Array, ""]
    hits: int = eqx.field(static=True)

    def __init__(self, action: AbstractAction, width: float = 0.5, hits: int = 1):
        action.geometry.require_even("the checkerboard Metropolis update")
        if not (math.isfinite(width) and width > 0):
            raise ValueError(f"local Metropolis needs a positive, finite proposal width (try 0.5), got {width!r}")
        if isinstance(hits, bool) or int(hits) != hits or hits < 1:
            raise ValueError(f"local Metropolis needs at least one hit per variable, got {hits!r}")
        _require_conditional(action)
        self.action = action
        self.width = jnp.asarray(width, float)
        self.hits = int(hits)

    def init(self, field: Field) -> State:
        return State(field, self.action(field))

    def step(self, key: PRNGKeyArray, state: State) -> tuple[State, Info]:
        geometry, group = self.action.geometry, self.action.group
        scalar = isinstance(group, RealLine)
        colours = jnp.asarray(geometry.parity())

        def one_parity(field: Field, xs: tuple[Int[Array, ""], PRNGKeyArray]) -> tuple[Field, Float[Array, ""]]:
            parity, key = xs
            accepted = []
            for mu, mu_key in enumerate(jax.random.split(key, 1 if scalar else geometry.Nd)):
                variable = field if scalar else component(field, mu, geometry.Nd)
                terms = conditional_action(self.action, field, mu)
                hit = functools.partial(self._hit, terms, colours == parity)
                variable, fractions = jax.lax.scan(hit, variable, jax.random.split(mu_key, self.hits))
                accepted.append(jnp.mean(fractions))
                field = variable if scalar else field.at[..., mu, *(slice(None),) * geometry.Nd].set(variable)
            return field, sum(accepted[1:], accepted[0]) / len(accepted)

        keys = jax.random.split(key)
        field, fractions = jax.lax.scan(one_parity, state.field, (jnp.arange(2, dtype=jnp.int32), keys))
        field = group.reunitarise(field)[0]
        action, acceptance = self.action(field), jnp.mean(fractions)
        return State(field, action), Info(acceptance, acceptance > 0, action - state.action, jnp.isfinite(action))

    def _hit(
        self, terms: Conditional, active: Bool[Array, "*lattice"], variable: Field, key: PRNGKeyArray
    ) -> tuple[Field, Float[Array, ""]]:
        group = self.action.group
        propose_key, accept_key = jax.random.split(key)
        direction = group.random_algebra(propose_key, active.shape, variable.dtype)
        proposal = group.move(self.width.astype(variable.real.dtype) * direction, variable)
        delta = terms(proposal) - terms(variable)
        # a NaN compares false, so a proposal with a non-finite action is rejected
        accept = active & (jax.random.uniform(accept_key, delta.shape, delta.dtype) < jnp.exp(-delta))
        spread = accept.reshape((1,) * len(group.colour_shape) + accept.shape)
        return jnp.where(spread, proposal, variable), 2 * jnp.mean(accept, dtype=delta.dtype)


def _require_conditional(action: AbstractAction) -> None:
    for term in action.terms if isinstance(action, Sum) else (action.term,) if isinstance(action, Scaled) else ():
        _require_conditional(term)
    if conditional_action.dispatch(type(action)) is conditional_action.dispatch(object):
        conditional_action(action, jnp.zeros(()), 0)
