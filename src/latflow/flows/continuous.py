"""Continuous flows: links follow the gradient of a trainable sum of Wilson loops (0907.5491; 2212.08469).

    dU_l / dt = i X_l U_l,   X = gradient of V_t,   d log|det J| / dt = Laplacian of V_t,   0 <= t <= 1,

(d theta_l / dt = X_l for U(1)), V_t = sum_i c_i(t) W_i with W_i eigenfunctions of the Laplacian, so that the divergence costs
nothing. Gauge and translation equivariant, and with few enough parameters that a model of one volume serves others.

The equations are integrated with a fixed number of steps of Butcher's six-stage fifth-order scheme. A step of U starts at some
U_0, and it is Omega of U = exp(i Omega) U_0 to which the scheme is applied (H. Munthe-Kaas, BIT 38 (1998) 92):

    d Omega / dt = sum_k B_k / k! ad_{i Omega}^k X,   B the Bernoulli numbers, of which those to k = 4 keep the order.

What comes out is a
bijection and a density only up to the integration error, which a flow trained by reverse KL will exploit if it can. Hence
`needs_audit`: log q found on the way to a configuration must agree with log q found on the way back. The scheme is of odd order
on purpose: its leading error changes sign with the direction of time, so the audit sees it (twice); that of an even order would
cancel in the round trip.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, PyTree

from latflow.flows.base import AbstractBijection
from latflow.flows.loop_terms import LoopTerms
from latflow.groups import AbstractGroup
from latflow.precision import working_dtype

Links = Inexact[Array, "..."]

# J. C. Butcher, J. Austral. Math. Soc. 4 (1964) 179: stage i sees field + h sum_j STAGES[i][j] velocity_j at t + NODES[i] h.
_NODES = np.array([0, 1 / 4, 1 / 4, 1 / 2, 3 / 4, 1])
_STAGES = np.array(
    [
        [0, 0, 0, 0, 0, 0],
        [1 / 4, 0, 0, 0, 0, 0],
        [1 / 8, 1 / 8, 0, 0, 0, 0],
        [0, -1 / 2, 1, 0, 0, 0],
        [3 / 16, 0, 0, 9 / 16, 0, 0],
        [-3 / 7, 2 / 7, 12 / 7, -12 / 7, 8 / 7, 0],
    ]
)
_WEIGHTS = np.array([7, 0, 32, 12, 32, 7]) / 90


class ContinuousFlow(AbstractBijection):
    """`steps` integration steps; coefficients are polynomials in t with `modes` Chebyshev terms each, zero at the start, where
    the flow is the identity. `coefficients` (terms, modes), in units of `terms.scales`."""

    terms: LoopTerms = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    coefficients: Float[Array, "terms modes"]

    def __init__(self, terms: LoopTerms, *, steps: int = 16, modes: int = 4, dtype=jnp.float32):
        if steps < 1 or modes < 1:
            raise ValueError(f"a continuous flow needs at least one step and one mode, got steps={steps}, modes={modes}")
        self.terms, self.steps = terms, steps
        self.coefficients = jnp.zeros((len(terms.names), modes), dtype)

    def refined(self, factor: int) -> ContinuousFlow:
        """The same flow with `factor` times as many steps."""
        modes = self.coefficients.shape[1]
        out = ContinuousFlow(self.terms, steps=factor * self.steps, modes=modes)
        return eqx.tree_at(lambda f: f.coefficients, out, self.coefficients)

    def _velocity(self, t: Float[Array, ""], links: Links) -> tuple[Links, Float[Array, ""]]:
        """(gradient of V_t, its Laplacian)."""
        modes = [jnp.ones_like(t), 2 * t - 1]
        for _ in range(2, self.coefficients.shape[1]):
            modes.append(2 * modes[1] * modes[-1] - modes[-2])
        scales = jnp.asarray(self.terms.scales, t.dtype)
        c = scales * (self.coefficients @ jnp.stack(modes[: self.coefficients.shape[1]]))

        def potential(links: Links):
            values = self.terms(links)
            return jnp.sum(c * values), values

        (_, values), gradient = self.terms.group.gradient(potential, links, has_aux=True)
        return gradient, -jnp.sum(jnp.asarray(self.terms.eigenvalues) * c * values)

    def _integrate(self, links: Links, total: Float[Array, "..."], velocity: Callable, backward: bool) -> Any:
        h, start = (-1 / self.steps, 1.0) if backward else (1 / self.steps, 0.0)
        group, dtype = self.terms.group, links.real.dtype
        nodes, stages, weights = (jnp.asarray(h * table, dtype) for table in (_NODES, _STAGES, _WEIGHTS))

        def step(state, t):
            links, total = state

            def stage(slopes, row):
                i, node, coefficients = row
                omega = _sum(coefficients, slopes)
                x, laplacian = velocity(t + node, group.move(omega, links))
                return slopes.at[i].set(_inverse_dexp(group, omega, x)), laplacian

            # Only fields are kept for the backward pass: the loops are quick to make again.
            rows = (jnp.arange(len(_NODES)), nodes, stages)
            slopes = jnp.zeros((len(_NODES), *links.shape), links.dtype)
            slopes, laplacians = jax.lax.scan(jax.checkpoint(stage), slopes, rows)
            links = group.move(_sum(weights, slopes), links)
            return (links, total + _sum(weights, laplacians)), None

        times = jnp.asarray(start + h * np.arange(self.steps), dtype)
        return jax.lax.scan(jax.checkpoint(step), (links, total), times)[0]

    def _one(self, links: Links, backward: bool) -> tuple[Links, Float[Array, ""]]:
        return self._integrate(links, jnp.zeros((), working_dtype()), self._velocity, backward)

    def _many(self, links: Links, backward: bool) -> tuple[Links, Float[Array, " batch"]]:
        velocity = jax.vmap(self._velocity, in_axes=(None, -1), out_axes=(-1, 0))
        return self._integrate(links, jnp.zeros(links.shape[-1:], working_dtype()), velocity, backward)

    def forward_and_log_det(self, x: Links, context: Any = None) -> tuple[Links, Float[Array, ""]]:
        return self._one(x, False)

    def inverse_and_log_det(self, y: Links, context: Any = None) -> tuple[Links, Float[Array, ""]]:
        return self._one(y, True)

    def forward_batch(self, x: Links, context: Any = None) -> tuple[Links, Float[Array, " batch"]]:
        return self._many(x, False)

    def inverse_batch(self, y: Links, context: Any = None) -> tuple[Links, Float[Array, " batch"]]:
        return self._many(y, True)


def _inverse_dexp(group: AbstractGroup, omega: Links, x: Links) -> Links:
    """sum_{k <= 4} B_k / k! ad_{i omega}^k x."""
    if not group.colour_shape:
        return x
    first = group.bracket(omega, x)
    second = group.bracket(omega, first)
    return x - first / 2 + second / 12 - group.bracket(omega, group.bracket(omega, second)) / 720


def _sum(weights: Array, slopes: Array) -> Array:
    # full precision also where the default for float32 products is less
    return jnp.tensordot(weights.astype(slopes.dtype), slopes, 1, precision=jax.lax.Precision.HIGHEST)


def _continuous(part: Any) -> bool:
    return isinstance(part, ContinuousFlow)


def needs_audit(tree: PyTree) -> bool:
    """Whether any part has a density that is exact only up to an integration error."""
    return any(map(_continuous, jax.tree.leaves(tree, is_leaf=_continuous)))


def refined(tree: PyTree, factor: int) -> PyTree:
    """The same flows, every integration step replaced by `factor` smaller ones."""

    def refine(part: Any) -> Any:
        return part.refined(factor) if _continuous(part) else part

    return jax.tree.map(refine, tree, is_leaf=_continuous)
