"""Shifted systems in one Krylov space (B. Jegerlehner, hep-lat/9612014).

The residuals of conjugate gradients for M + sigma from x = 0 are parallel to those for M, r^sigma_n = zeta_n r_n. With the step
alpha_n, beta_n = |r_{n+1}|^2 / |r_n|^2 and the ratio rho_n = zeta_{n+1} / zeta_n the recursion there is

    1 / rho_n = 1 + sigma alpha_n + (alpha_n beta_{n-1} / alpha_{n-1}) (1 - rho_{n-1}),
    alpha^sigma_n = alpha_n rho_n,        beta^sigma_n = beta_n rho_n^2.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from latflow.precision import working_dtype
from latflow.solvers.cg import cg_within
from latflow.solvers.info import SolveInfo
from latflow.solvers.vectors import Operator, Scalar, Vector, add_scaled, apply, inner, require_settings, stack_of


class _State(NamedTuple):
    x: Vector  # stacked over the shifts, like p
    p: Vector
    r: Vector
    direction: Vector  # p of the lowest shift
    norm2: Scalar
    alpha: Scalar
    beta: Scalar
    rho: Float[Array, " shifts"]
    zeta: Float[Array, " shifts"]
    active: Bool[Array, " shifts"]
    iterations: Int[Array, " shifts"]
    iteration: Int[Array, ""]
    finished: Bool[Array, ""]


def multishift_cg(
    mv: Operator, b: Vector, shifts: Float[Array, " shifts"], *, tol: float, max_iterations: int = 1000
) -> tuple[Vector, SolveInfo]:
    """(x_k stacked on a leading axis, info of vectors): (M + shifts_k) x_k = b for all k, M Hermitian positive, shifts >= 0.

    One product with M per iteration serves all shifts; the lowest one, of any position, converges last and defines the space. A
    shift that has reached `tol` is no longer updated. Then every solution is verified by a product of its own, and where
    rounding has left the true residual above `tol` completed by `cg`; its steps count in `iterations`, which `max_iterations`
    bounds for every shift. The shifts may be traced. Raises ValueError as `cg` does, and for negative (known) shifts.
    """
    require_settings(tol, max_iterations)
    if not isinstance(shifts, Tracer) and not np.all(np.asarray(shifts) >= 0):
        raise ValueError(f"shifts must not be negative, got {shifts}")
    shifts = shifts.astype(working_dtype())
    count, lowest = shifts.shape[0], jnp.min(shifts)
    sigma = shifts - lowest
    b2 = inner(b, b)
    target = tol**2 * b2
    add_each = jax.vmap(add_scaled)

    def body(s: _State) -> _State:
        product = add_scaled(apply(mv, s.direction), lowest, s.direction)
        curvature = inner(s.direction, product)
        sound = curvature > 0
        alpha = jnp.where(sound, s.norm2 / jnp.where(sound, curvature, 1.0), 0.0)
        rho = 1 / (1 + sigma * alpha + (alpha * s.beta / s.alpha) * (1 - s.rho))
        r = add_scaled(s.r, -alpha, product)
        norm2 = inner(r, r)
        beta = norm2 / s.norm2
        zeta = s.zeta * rho
        x = add_each(s.x, jnp.where(s.active, alpha * rho, 0.0), s.p)
        # a shift that has stopped keeps its p, so that nothing can overflow
        keep, add = jnp.where(s.active, beta * rho**2, 1.0), jnp.where(s.active, zeta, 0.0)
        p = jax.tree.map(lambda p, r: _column(keep, p) * p + _column(add, p) * r[None], s.p, r)
        active = s.active & (zeta**2 * norm2 > target)
        iteration = s.iteration + 1
        return _State(
            x=x,
            p=p,
            r=r,
            direction=add_scaled(r, beta, s.direction),
            norm2=norm2,
            alpha=alpha,
            beta=beta,
            rho=rho,
            zeta=zeta,
            active=active,
            iterations=s.iterations + s.active.astype(jnp.int32),
            iteration=iteration,
            finished=~jnp.isfinite(norm2) | ~sound | ~jnp.any(active) | (iteration >= max_iterations),
        )

    one, ones = jnp.ones((), working_dtype()), jnp.ones((count,), working_dtype())
    zero = stack_of(b, count)
    start = _State(
        x=zero,
        p=jax.tree.map(lambda z, b: z + b[None], zero, b),
        r=b,
        direction=b,
        norm2=b2,
        alpha=one,
        beta=0 * one,
        rho=ones,
        zeta=ones,
        active=ones > 0,
        iterations=jnp.zeros((count,), jnp.int32),
        iteration=jnp.zeros((), jnp.int32),
        finished=(b2 == 0) | ~jnp.isfinite(b2) | (max_iterations == 0),
    )
    end = jax.lax.while_loop(lambda s: ~s.finished, body, start)

    def complete(each: tuple[Scalar, Vector, Int[Array, ""]]) -> tuple[Vector, SolveInfo]:
        shift, x, iterations = each
        x, info = cg_within(lambda v: add_scaled(apply(mv, v), shift, v), b, tol, max_iterations - iterations, x)
        return x, info._replace(iterations=info.iterations + iterations)

    return jax.lax.map(complete, (shifts, end.x, end.iterations))


def _column(a: Float[Array, " shifts"], like: Array) -> Array:
    return a.astype(like.real.dtype).reshape(-1, *[1] * (like.ndim - 1))
