"""Solves that are differentiated through the equation they solve.

M(p) x = b gives dx = M^-1 (db - dM x). JAX's cotangents are paired without complex conjugation, so the cotangent of b is
lambda = M^-T xbar = conj(M^-1 conj(xbar)) for Hermitian M, and that of p is the vjp of -M(p) x at fixed x, applied to lambda.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from latflow.solvers.cg import cg
from latflow.solvers.info import SolveInfo
from latflow.solvers.vectors import Vector, apply, require_settings


def implicit_solve(
    operator_mv: Callable[[Any, Vector], Vector],
    parameters: Any,
    b: Vector,
    *,
    tol: float,
    max_iterations: int = 1000,
    x0: Vector | None = None,
) -> tuple[Vector, SolveInfo]:
    """`cg` for M v = operator_mv(parameters, v), with reverse-mode derivatives for `parameters` and `b`, once.

    `parameters` is any pytree; its floating-point and complex arrays are differentiated. The backward pass is one more solve,
    to the same `tol`, so that gradients are exact to about `tol` times the condition number; where that solve does not converge
    the gradient is nan, since its info cannot be returned. The start `x0` and the info have no derivative.
    Raises ValueError as `cg` does.
    """
    require_settings(tol, max_iterations)
    dynamic, static = eqx.partition(parameters, eqx.is_inexact_array)

    def bound(dynamic: PyTree, v: Vector) -> Vector:
        return operator_mv(eqx.combine(dynamic, static), v)

    # what operator_mv closes over becomes an argument: a custom derivative must not close over traced values
    mv, closed = jax.closure_convert(bound, dynamic, b)

    @jax.custom_vjp
    def solve(arguments: PyTree, b: Vector, x0: Vector | None) -> tuple[Vector, SolveInfo]:
        return cg(lambda v: mv(arguments[0], v, *arguments[1]), b, tol=tol, max_iterations=max_iterations, x0=x0)

    def forward(arguments: PyTree, b: Vector, x0: Vector | None):
        x, info = solve(arguments, b, x0)
        return (x, info), (arguments, x)

    def backward(kept: tuple[PyTree, Vector], cotangents: tuple[Vector, SolveInfo]):
        arguments, x = kept
        source = jax.tree.map(jnp.conj, cotangents[0])
        solution, info = cg(lambda v: mv(arguments[0], v, *arguments[1]), source, tol=tol, max_iterations=max_iterations)
        adjoint = jax.tree.map(lambda s: jnp.where(info.converged, jnp.conj(s), jnp.nan), solution)
        _, pull = jax.vjp(lambda arguments: apply(lambda v: mv(arguments[0], v, *arguments[1]), x), arguments)
        (gradient,) = pull(jax.tree.map(jnp.negative, adjoint))
        return gradient, adjoint, None

    solve.defvjp(forward, backward)
    return solve((dynamic, closed), b, jax.lax.stop_gradient(x0))
