"""Conjugate gradients (M. R. Hestenes and E. Stiefel, J. Res. NBS 49 (1952) 409), with verified residuals."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from latflow.precision import working_dtype
from latflow.solvers.info import SolveInfo
from latflow.solvers.vectors import Operator, Scalar, Vector, add_scaled, apply, inner, require_settings, select, zeros_like


class _State(NamedTuple):
    x: Vector
    r: Vector
    p: Vector
    norm2: Scalar  # |r|^2
    failed: Scalar  # |b - M x|^2 where the recursion wrongly claimed convergence last
    iteration: Int[Array, ""]
    verify: Bool[Array, ""]  # the next product is M x, for the true residual, instead of M p
    broken: Bool[Array, ""]
    finished: Bool[Array, ""]


def cg(
    mv: Operator, b: Vector, *, tol: float, max_iterations: int = 1000, x0: Vector | None = None
) -> tuple[Vector, SolveInfo]:
    """x with M x = b and |b - M x| <= `tol` |b|, for Hermitian positive M given as the function `mv`; and how that went.

    `b` is an array or a pytree, real or complex, `x` is like it; `x0` is where to start from (default zero). b = 0 gives x = 0.
    Inner products are in the working dtype. When the residual of the recursion reaches the tolerance, the true one is computed,
    and the recursion starts anew from it if rounding has driven them apart, until that no longer helps; thus `converged` speaks
    of the true residual, which in single precision may stay above a small `tol`. The loop also ends, not converged, when
    something is not finite, or when p^dagger M p <= 0 shows that M is not positive.

    Batches by `jax.vmap`: each member stops for itself. Not for reverse-mode differentiation: see `implicit_solve`.
    Raises ValueError for `tol` outside (0, 1), and if `mv` changes structure, shapes or types.
    """
    require_settings(tol, max_iterations)
    return cg_within(mv, b, tol, jnp.asarray(max_iterations, jnp.int32), x0)


def cg_within(
    mv: Operator, b: Vector, tol: float, max_iterations: Int[Array, ""], x0: Vector | None = None
) -> tuple[Vector, SolveInfo]:
    """`cg` with a limit that may be traced."""
    b2 = inner(b, b)
    target = tol**2 * b2

    def body(s: _State) -> _State:
        # one product per turn, of p or of x, so that the operator is compiled once
        product = apply(mv, select(s.verify, s.x, s.p))
        curvature = inner(s.p, product)
        sound = s.verify | (curvature > 0)
        alpha = jnp.where(s.verify | ~sound, 0.0, s.norm2 / jnp.where(curvature > 0, curvature, 1.0))
        r = add_scaled(select(s.verify, b, s.r), jnp.where(s.verify, -1.0, -alpha), product)
        norm2 = inner(r, r)
        iteration = s.iteration + jnp.where(s.verify, 0, 1).astype(jnp.int32)
        exhausted = iteration >= max_iterations
        # once rounding has shown, go somewhat further before verifying again
        claimed = norm2 <= jnp.where(jnp.isfinite(s.failed), target / 4, target)
        settled = (norm2 <= target) | exhausted | s.broken | (norm2 > s.failed / 4)
        return _State(
            x=add_scaled(s.x, alpha, s.p),
            r=r,
            p=add_scaled(r, jnp.where(s.verify, 0.0, norm2 / s.norm2), s.p),
            norm2=norm2,
            failed=jnp.where(s.verify & (iteration > 0), norm2, s.failed),
            iteration=iteration,
            verify=~s.verify & (claimed | exhausted | ~sound),
            broken=~sound,
            finished=~jnp.isfinite(norm2) | (s.verify & settled),
        )

    zero, guessed = zeros_like(b), x0 is not None
    no = jnp.zeros((), bool)
    start = _State(
        x=select(b2 == 0, zero, x0) if guessed else zero,
        r=b,
        p=zero if guessed else b,
        norm2=b2,
        failed=jnp.asarray(jnp.inf, working_dtype()),
        iteration=jnp.zeros((), jnp.int32),
        verify=~no if guessed else no,
        broken=no,
        finished=(b2 == 0) | ~jnp.isfinite(b2) | (no if guessed else max_iterations <= 0),
    )
    end = jax.lax.while_loop(lambda s: ~s.finished, body, start)
    return end.x, SolveInfo.of(end.iteration, end.norm2, b2, tol)
