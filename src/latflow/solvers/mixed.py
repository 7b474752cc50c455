"""Conjugate gradients in two precisions, with reliable updates (M. A. Clark et al., 0911.3191, Sec. 4.2)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from latflow.precision import working_dtype
from latflow.solvers.info import MixedSolveInfo, SolveInfo
from latflow.solvers.vectors import (
    Operator,
    Scalar,
    Vector,
    add_scaled,
    apply,
    inner,
    require_settings,
    scale,
    select,
    subtract,
    zeros_like,
)

PATIENCE = 2  # updates in a row that hardly reduce the residual


class _Inner(NamedTuple):
    """In low precision; y is what has been added to x since the last update."""

    y: Vector
    r: Vector
    p: Vector
    norm2: Scalar
    largest: Scalar  # norm2 since the last update
    iteration: Int[Array, ""]
    sound: Bool[Array, ""]


class _Outer(NamedTuple):
    x: Vector
    r: Vector
    p: Vector  # in low precision
    norm2: Scalar
    iteration: Int[Array, ""]
    updates: Int[Array, ""]
    stalled: Int[Array, ""]
    finished: Bool[Array, ""]


def mixed_precision_cg(
    mv: Operator, mv_low: Operator, b: Vector, *, tol: float, max_iterations: int = 1000, delta: float = 0.1
) -> tuple[Vector, MixedSolveInfo]:
    """`cg` for M whose iterations use `mv_low`, the same operator on vectors of single precision, from x = 0.

    `b` and x are of double precision. Whenever the residual of the inner recursion has dropped by `delta` below its largest
    value since the last time, what it found is added to x, and the recursion goes on with the true residual b - M x but its old
    search direction; hence as many iterations as in double precision, with one product by `mv` (`info.updates`) per factor
    `delta`, and tolerances far below single precision. The loop ends, not converged, after `max_iterations` inner iterations,
    after two updates in a row that hardly reduce the residual, and where something is not finite or M not positive.

    Batches by `jax.vmap`. Not for reverse-mode differentiation. Raises ValueError for `tol` or `delta` outside (0, 1), for `b`
    in single precision, and if `mv` or `mv_low` change structure, shapes or types.
    """
    require_settings(tol, max_iterations)
    if not 0 < delta < 1:
        raise ValueError(f"the residual drops by a factor delta between 0 and 1 before an update, got {delta}")
    if any(leaf.dtype not in (jnp.float64, jnp.complex128) for leaf in jax.tree.leaves(b)):
        raise ValueError("the right-hand side of a solve in mixed precision must be of double precision")
    size2 = inner(b, b)
    # of unit norm, so that single precision neither over- nor underflows
    unit = scale(1 / jnp.where(size2 == 0, 1.0, jnp.sqrt(size2)), b)
    b2 = inner(unit, unit)
    target = tol**2 * b2

    def step(s: _Inner) -> _Inner:
        product = apply(mv_low, s.p)
        curvature = inner(s.p, product)
        sound = curvature > 0
        alpha = jnp.where(sound, s.norm2 / jnp.where(sound, curvature, 1.0), 0.0)
        r = add_scaled(s.r, -alpha, product)
        norm2 = inner(r, r)
        return _Inner(
            y=add_scaled(s.y, alpha, s.p),
            r=r,
            p=add_scaled(r, norm2 / s.norm2, s.p),
            norm2=norm2,
            largest=jnp.maximum(s.largest, norm2),
            iteration=s.iteration + 1,
            sound=sound,
        )

    def goes_on(s: _Inner) -> Bool[Array, ""]:
        small = (s.norm2 <= delta**2 * s.largest) | (s.norm2 <= target / 4)
        return s.sound & jnp.isfinite(s.norm2) & ~small & (s.iteration < max_iterations)

    def body(s: _Outer) -> _Outer:
        low = _low(s.r)
        inside = jax.lax.while_loop(
            goes_on, step, _Inner(zeros_like(low), low, s.p, s.norm2, s.norm2, s.iteration, jnp.ones((), bool))
        )
        x = jax.tree.map(lambda x, y: x + y.astype(x.dtype), s.x, inside.y)
        r = subtract(unit, apply(mv, x))
        norm2 = inner(r, r)
        low = _low(r)
        # a factor 2 is expected at least, or half the digits of delta where that is less
        stalled = jnp.where(norm2 > max(0.25, delta) * s.norm2, s.stalled + 1, 0).astype(jnp.int32)
        # the recursion's last search direction is p = r_low + beta p_old: exchange its residual for the true one
        p = select(stalled > 0, low, jax.tree.map(lambda p, old, new: p - old + new, inside.p, inside.r, low))
        ended = (norm2 <= target) | (inside.iteration >= max_iterations) | ~inside.sound | (stalled >= PATIENCE)
        return _Outer(x, r, p, norm2, inside.iteration, s.updates + 1, stalled, ~jnp.isfinite(norm2) | ended)

    zero = jnp.zeros((), jnp.int32)
    finished = (b2 == 0) | ~jnp.isfinite(b2) | (max_iterations == 0)
    start = _Outer(zeros_like(unit), unit, _low(unit), b2.astype(working_dtype()), zero, zero, zero, finished)
    end = jax.lax.while_loop(lambda s: ~s.finished, body, start)
    info = SolveInfo.of(end.iteration, end.norm2, b2, tol)
    return scale(jnp.sqrt(size2), end.x), MixedSolveInfo(*info, end.updates)


def _low(x: Vector) -> Vector:
    """x in single precision."""
    return jax.tree.map(lambda x: x.astype(jnp.complex64 if jnp.iscomplexobj(x) else jnp.float32), x)
