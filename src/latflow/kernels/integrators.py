"""Reversible, volume-preserving integrators of molecular dynamics, as tables of coefficients.

With dU/dt = iPU and dP/dt = -F, where F is the force of the action S, one step of size eps is the palindrome
K(b_0) D(a_1) K(b_1) ... D(a_n) K(b_n) of

    kicks   K(b): P <- P - b eps F(U')      with U' = exp(-i c eps^2 F(U)) U (c = 0 but in force-gradient schemes)
    drifts  D(a): U <- exp(i a eps P) U

All tables begin with a kick, so that the force at the start of a trajectory is the one cached at the end of the last, and
neighbouring steps share a kick: a step costs exactly one force evaluation per drift (one more per displaced kick).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from latflow.actions.base import AbstractAction
from latflow.precision import working_dtype


@dataclasses.dataclass(frozen=True)
class Integrator:
    """Coefficients of one step; hashable. Raises ValueError unless the table is a consistent palindrome.

    `kicks` are b_0 ... b_n, `drifts` are a_1 ... a_n, `displacements` are the c of every kick (empty: all zero). `order` is
    the power of eps with which the energy violation at fixed trajectory length decreases.
    """

    order: int
    kicks: tuple[float, ...]
    drifts: tuple[float, ...]
    displacements: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        displacements = self.displacements or (0.0,) * len(self.kicks)
        object.__setattr__(self, "displacements", displacements)
        rows = (self.kicks, self.drifts, displacements)
        if len(self.kicks) != len(self.drifts) + 1 or len(displacements) != len(self.kicks):
            raise ValueError("an integrator needs one kick more than drifts, and one displacement per kick")
        if any(abs(a - b) > 1e-15 for row in rows for a, b in zip(row, row[::-1], strict=True)):
            raise ValueError("the coefficients of an integrator must read the same backwards, or it is not reversible")
        if any(abs(sum(row) - 1) > 1e-14 for row in rows[:2]):
            raise ValueError("kicks and drifts of an integrator must each sum to 1")
        if displacements[0]:
            raise ValueError("the first and last kick share a cached force, so they cannot be displaced")

    @property
    def force_evaluations(self) -> int:
        """Force evaluations per step."""
        return len(self.drifts) + sum(c != 0 for c in self.displacements)


def _omelyan2(lam: float) -> Integrator:
    return Integrator(2, (lam, 1 - 2 * lam, lam), (0.5, 0.5))


def _omelyan4(theta: float, rho: float, lam: float, mu: float) -> Integrator:
    middle = 0.5 - lam - theta
    return Integrator(4, (theta, lam, middle, middle, lam, theta), (rho, mu, 1 - 2 * (mu + rho), mu, rho))


INTEGRATORS: dict[str, Integrator] = {
    "leapfrog": Integrator(2, (0.5, 0.5), (1.0,)),
    # Minimum norm of second order: Omelyan, Mryglod, Folk, Comput. Phys. Commun. 151 (2003) 272; hep-lat/0505020.
    "omelyan2": _omelyan2(0.1931833275037836),
    # 4MN5FV, minimum norm of fourth order with five forces: the same two papers (OMF4 in openQCD).
    "omelyan4": _omelyan4(0.08398315262876693, 0.2539785108410595, 0.6822365335719091, -0.03230286765269967),
    # Force gradient, 0910.2950, with the Hessian term replaced by a force at a displaced field: 1111.5059.
    "force-gradient": Integrator(4, (1 / 6, 2 / 3, 1 / 6), (0.5, 0.5), (0.0, 1 / 24, 0.0)),
}


def integrate(
    integrator: Integrator,
    action: AbstractAction,
    field: Inexact[Array, "..."],
    momentum: Inexact[Array, "..."],
    force: Inexact[Array, "..."],
    step_size: Float[Array, ""],
    num_steps: int,
) -> tuple[Inexact[Array, "..."], Inexact[Array, "..."], Float[Array, ""], Inexact[Array, "..."]]:
    """`num_steps` steps of molecular dynamics from a field whose `force` is known; (field, momentum, action, force) at the end.

    `step_size` may be traced and may be negative (which runs the same trajectory backwards); `num_steps` is static.
    """
    group = action.group
    eps = step_size.astype(field.real.dtype)

    def step(carry, last_kick):
        field, momentum, _, force = carry
        rows = zip(integrator.drifts, (*integrator.kicks[1:-1], last_kick), integrator.displacements[1:], strict=True)
        for drift, kick, displacement in rows:
            field = group.move(drift * eps * momentum, field)
            value, force = action.value_and_force(field)
            if displacement:
                momentum = momentum - kick * eps * action.force(group.move(-displacement * eps * eps * force, field))
            else:
                momentum = momentum - kick * eps * force
        return (field, momentum, value, force), None

    first = integrator.kicks[0]
    last_kicks = jnp.full((num_steps,), 2 * first, eps.dtype).at[-1].set(first)
    momentum = momentum - first * eps * force
    start = (field, momentum, jnp.zeros((), working_dtype()), force)
    (field, momentum, value, force), _ = jax.lax.scan(step, start, last_kicks)
    return field, momentum, value, force
