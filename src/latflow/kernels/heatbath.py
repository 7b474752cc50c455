"""Heatbath and overrelaxation of U(1) links in two to four dimensions, by directions and parities.

The plaquettes around one link sum to Re(exp(i theta) A) = |A| cos(theta + arg A), with A the sum of its staples. With all other
links fixed, those of one direction and parity are independent, each with density exp(beta |A| cos(theta + arg A)): a von Mises
distribution of concentration beta |A| around -arg A.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from latflow.actions import AbstractAction, WilsonGauge
from latflow.actions.base import coupling
from latflow.groups import U1, wrap
from latflow.kernels.base import AbstractKernel, Info, State
from latflow.kernels.checkerboard import pack, unpack
from latflow.kernels.sweep import require_wilson, sweep, swept
from latflow.kernels.von_mises import von_mises
from latflow.lattice import component
from latflow.loops import staple_sum, staples

Angles = Float[Array, "..."]


class HeatbathU1(AbstractKernel):
    """One sweep that draws every link from its exact conditional distribution given the others (Creutz 1980).

    Raises ValueError unless `action` is a U(1) Wilson action on a lattice of even extents.
    """

    action: WilsonGauge

    def __init__(self, action: AbstractAction):
        self.action = require_wilson(action, U1, "U(1)", "heatbath")

    def init(self, field: Angles) -> State:
        return State(field, self.action(field))

    def step(self, key: PRNGKeyArray, state: State) -> tuple[State, Info]:
        geometry, beta = self.action.geometry, coupling(self.action.beta, state.field)

        def draw(key: PRNGKeyArray, field: Angles, mu: int, parity: Int[Array, ""]) -> Angles:
            # packed before anything is exponentiated or drawn: 1.5 times faster than to compute all links and mask
            angles = [pack(geometry, staple, parity) for staple in staples(U1(), geometry, field, mu)]
            force = beta * sum((U1().embed(angle) for angle in angles[1:]), U1().embed(angles[0]))
            new = wrap(von_mises(key, jnp.abs(force)) - jnp.angle(force))
            return unpack(geometry, new, component(field, mu, geometry.Nd), parity)

        return swept(self.action, sweep(self.action, key, state.field, draw), state)


class OverrelaxationU1(AbstractKernel):
    """One sweep that reflects every link about its staples, theta -> -theta - 2 arg A: the action does not change.

    Deterministic and microcanonical, hence not ergodic: combine it with a heatbath in `Composite`. Raises ValueError unless
    `action` is a U(1) Wilson action on a lattice of even extents.
    """

    action: WilsonGauge

    def __init__(self, action: AbstractAction):
        self.action = require_wilson(action, U1, "U(1)", "overrelaxation")

    def init(self, field: Angles) -> State:
        return State(field, self.action(field))

    def step(self, key: PRNGKeyArray, state: State) -> tuple[State, Info]:
        geometry = self.action.geometry
        colours = jnp.asarray(geometry.parity())

        def reflect(key: PRNGKeyArray, field: Angles, mu: int, parity: Int[Array, ""]) -> Angles:
            # a reflection is so cheap that packing costs as much as the half it saves
            link = component(field, mu, geometry.Nd)
            reflected = wrap(-link - 2 * jnp.angle(staple_sum(U1(), geometry, field, mu)))
            return jnp.where(colours == parity, reflected, link)

        return swept(self.action, sweep(self.action, key, state.field, reflect), state)
