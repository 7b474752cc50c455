"""Continuous flows: links follow the gradient of a trainable sum of Wilson loops (0907.5491; 2212.08469).

    d theta_l / dt = d V_t / d theta_l,   d log|det J| / dt = Laplacian of V_t,   V_t = sum_i c_i(t) W_i,   0 <= t <= 1,

with W_i eigenfunctions of the Laplacian, so that the divergence costs nothing. Gauge and translation equivariant, and with few
enough parameters that a model of one volume serves others.

The equations are integrated with a fixed number of steps of Butcher's six-stage fifth-order scheme. What comes out is a
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
from jaxtyping import Array, Float, PyTree

from latflow.flows.base import AbstractBijection
from latflow.flows.loop_terms import U1LoopTerms

Theta = Float[Array, "Nd ..."]

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


class U1ContinuousFlow(AbstractBijection):
    """`steps` integration steps; coefficients are polynomials in t with `modes` Chebyshev terms each, zero at the start, where
    the flow is the identity. `coefficients` (terms, modes), in units of `terms.scales`."""

    terms: U1LoopTerms = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    coefficients: Float[Array, "terms modes"]

    def __init__(self, terms: U1LoopTerms, *, steps: int = 16, modes: int = 4, dtype=jnp.float32):
        if steps < 1 or modes < 1:
            raise ValueError(f"a continuous flow needs at least one step and one mode, got steps={steps}, modes={modes}")
        self.terms, self.steps = terms, steps
        self.coefficients = jnp.zeros((len(terms.names), modes), dtype)

    def refined(self, factor: int) -> U1ContinuousFlow:
        """The same flow with `factor` times as many steps."""
        modes = self.coefficients.shape[1]
        out = U1ContinuousFlow(self.terms, steps=factor * self.steps, modes=modes)
        return eqx.tree_at(lambda f: f.coefficients, out, self.coefficients)

    def _velocity(self, t: Float[Array, ""], theta: Theta) -> tuple[Theta, Float[Array, ""]]:
        """(gradient of V_t, its Laplacian)."""
        modes = [jnp.ones_like(t), 2 * t - 1]
        for _ in range(2, self.coefficients.shape[1]):
            modes.append(2 * modes[1] * modes[-1] - modes[-2])
        scales = jnp.asarray(self.terms.scales, theta.dtype)
        c = scales * (self.coefficients @ jnp.stack(modes[: self.coefficients.shape[1]]))

        def potential(theta: Theta):
            values = self.terms(theta)
            return jnp.sum(c * values), values

        gradient, values = jax.grad(potential, has_aux=True)(theta)
        return gradient, -jnp.sum(jnp.asarray(self.terms.eigenvalues, theta.dtype) * c * values)

    def _integrate(self, theta: Theta, total: Float[Array, "..."], velocity: Callable, backward: bool) -> Any:
        h, start = (-1 / self.steps, 1.0) if backward else (1 / self.steps, 0.0)
        nodes, stages, weights = (jnp.asarray(h * table, theta.dtype) for table in (_NODES, _STAGES, _WEIGHTS))

        def step(state, t):
            field, total = state

            def stage(slopes, row):
                i, node, coefficients = row
                slope, laplacian = velocity(t + node, field + _sum(coefficients, slopes))
                return slopes.at[i].set(slope), laplacian

            # Only fields are kept for the backward pass: the loops are quick to make again.
            rows = (jnp.arange(len(_NODES)), nodes, stages)
            slopes = jnp.zeros((len(_NODES), *field.shape), field.dtype)
            slopes, laplacians = jax.lax.scan(jax.checkpoint(stage), slopes, rows)
            field = field + _sum(weights, slopes)
            return (field, total + _sum(weights, laplacians)), None

        times = jnp.asarray(start + h * np.arange(self.steps), theta.dtype)
        return jax.lax.scan(jax.checkpoint(step), (theta, total), times)[0]

    def _one(self, theta: Theta, backward: bool) -> tuple[Theta, Float[Array, ""]]:
        return self._integrate(theta, jnp.zeros((), theta.dtype), self._velocity, backward)

    def _many(self, theta: Theta, backward: bool) -> tuple[Theta, Float[Array, " batch"]]:
        velocity = jax.vmap(self._velocity, in_axes=(None, -1), out_axes=(-1, 0))
        return self._integrate(theta, jnp.zeros(theta.shape[-1:], theta.dtype), velocity, backward)

    def forward_and_log_det(self, x: Theta, context: Any = None) -> tuple[Theta, Float[Array, ""]]:
        return self._one(x, False)

    def inverse_and_log_det(self, y: Theta, context: Any = None) -> tuple[Theta, Float[Array, ""]]:
        return self._one(y, True)

    def forward_batch(self, x: Theta, context: Any = None) -> tuple[Theta, Float[Array, " batch"]]:
        return self._many(x, False)

    def inverse_batch(self, y: Theta, context: Any = None) -> tuple[Theta, Float[Array, " batch"]]:
        return self._many(y, True)


def _sum(weights: Array, slopes: Array) -> Array:
    # full precision also where the default for float32 products is less
    return jnp.tensordot(weights, slopes, 1, precision=jax.lax.Precision.HIGHEST)


def _continuous(part: Any) -> bool:
    return isinstance(part, U1ContinuousFlow)


def needs_audit(tree: PyTree) -> bool:
    """Whether any part has a density that is exact only up to an integration error."""
    return any(map(_continuous, jax.tree.leaves(tree, is_leaf=_continuous)))


def refined(tree: PyTree, factor: int) -> PyTree:
    """The same flows, every integration step replaced by `factor` smaller ones."""

    def refine(part: Any) -> Any:
        return part.refined(factor) if _continuous(part) else part

    return jax.tree.map(refine, tree, is_leaf=_continuous)
