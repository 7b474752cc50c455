"""How a solve went: a value inside jit, an exception at the edge."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from latflow.errors import LatflowError


class SolverFailure(LatflowError):
    """A linear solve did not reach its tolerance."""


class SolveInfo(NamedTuple):
    """Of one solve scalars, of a batch arrays of its shape.

    `iterations`: int32, steps taken. `residual`: |b - M x| / |b| recomputed from the returned x, in the working dtype; zero for
    b = 0, nan where b, M or x is not finite. `converged`: whether the residual is at most the tolerance.
    """

    iterations: Int[Array, "..."]
    residual: Float[Array, "..."]
    converged: Bool[Array, "..."]

    @classmethod
    def of(cls, iterations: Int[Array, "..."], r2: Float[Array, "..."], b2: Float[Array, "..."], tol: float) -> SolveInfo:
        """From r2 = |b - M x|^2 and b2 = |b|^2."""
        residual = jnp.sqrt(r2 / jnp.where(b2 == 0, 1.0, b2))
        finite = jnp.isfinite(residual)
        return cls(iterations, jnp.where(finite, residual, jnp.nan), finite & (r2 <= tol**2 * b2))


class MixedSolveInfo(NamedTuple):
    """`SolveInfo` of a solve in two precisions: `iterations` are those in low precision, `updates` the products in high one."""

    iterations: Int[Array, "..."]
    residual: Float[Array, "..."]
    converged: Bool[Array, "..."]
    updates: Int[Array, "..."]


def require_converged(info: SolveInfo | MixedSolveInfo, what: str) -> None:
    """Raises `SolverFailure` if a solve of `info` did not converge; `what` names it, e.g. "the pion propagator".

    For concrete values only: ValueError inside jit, vmap or grad, where `info.converged` is what to look at.
    """
    if isinstance(info.converged, Tracer):
        raise ValueError("require_converged needs concrete values: call it outside jit, vmap and grad")
    failed = ~np.asarray(info.converged)
    if not failed.any():
        return
    residual, iterations = np.broadcast_arrays(info.residual, info.iterations)
    residual = np.where(np.isfinite(residual), residual, np.inf)[failed]
    worst = int(np.argmax(residual))
    count = "" if failed.ndim == 0 else f" in {failed.sum()} of {failed.size} solves"
    if np.isfinite(residual[worst]):
        reached = f"relative residual {residual[worst]:.1e}"
        remedy = "allow more iterations, a larger tolerance or mass, or use double precision, and check that M is positive"
    else:
        reached = "the residual is not finite"
        remedy = "look for nan or inf in the right-hand side and in the field of the operator"
    raise SolverFailure(f"{what} did not converge{count}: {reached} after {iterations[failed][worst]} iterations", remedy)
