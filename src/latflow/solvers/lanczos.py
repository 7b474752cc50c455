"""The Lanczos process with full reorthogonalisation, and what it says about the ends of a spectrum.

From v it builds an orthonormal basis V of span{v, M v, ..., M^{m-1} v} with M V = V T + beta_m v_{m+1} e_m^T, T tridiagonal.
For T s = theta s the Ritz vector y = V s has |M y - theta y| = beta_m |s_m|: an eigenvalue of M lies within that distance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from latflow.precision import working_dtype
from latflow.solvers.cg import cg
from latflow.solvers.vectors import (
    Operator,
    Vector,
    apply,
    inner,
    normalise,
    orthogonalise,
    resolution,
    stack_of,
    with_component,
)


class Tridiagonal(NamedTuple):
    """T in the working dtype: `diagonal` (m,), `off_diagonal` (m,), whose last entry is beta_m, and |v|^2.

    Where the space is exhausted after k < m steps, off_diagonal[k-1:] vanishes and diagonal[k:] repeats diagonal[0], which lies
    within the spectrum and is decoupled from the rest.
    """

    diagonal: Float[Array, " m"]
    off_diagonal: Float[Array, " m"]
    norm2: Float[Array, ""]

    def spectrum(self) -> tuple[Float[Array, " m"], Float[Array, "m m"]]:
        """(theta ascending, their vectors s as columns); nan where the process met one."""
        off = self.off_diagonal[:-1]
        T = jnp.diag(self.diagonal) + jnp.diag(off, 1) + jnp.diag(off, -1)
        finite = jnp.isfinite(self.norm2) & jnp.all(jnp.isfinite(T))
        theta, s = jnp.linalg.eigh(jnp.where(finite, T, jnp.eye(T.shape[0])))
        return jnp.where(finite, theta, jnp.nan), jnp.where(finite, s, jnp.nan)


def lanczos(mv: Operator, v0: Vector, *, num_steps: int) -> Tridiagonal:
    """T of Hermitian M and a start vector, with `num_steps` products and as many vectors in memory.

    Raises ValueError for `num_steps` < 1, and if `mv` changes structure, shapes or types.
    """
    return _process(lambda v: (apply(mv, v), jnp.ones((), bool)), v0, num_steps)[0]


def _process(
    product: Callable[[Vector], tuple[Vector, Bool[Array, ""]]], v0: Vector, num_steps: int
) -> tuple[Tridiagonal, Bool[Array, ""]]:
    """(T, whether all products went well)."""
    if num_steps < 1:
        raise ValueError(f"the Lanczos process takes at least one step, got {num_steps}")
    zero = jnp.zeros((), working_dtype())
    noise = jnp.asarray(100 * resolution(v0), working_dtype())

    def body(carry, k):
        basis, v, size, first, alive = carry
        basis = with_component(basis, k, v)
        w, sound = product(v)
        alpha = inner(v, w)
        size = jnp.maximum(size, jnp.sqrt(inner(w, w)))
        first = jnp.where(k == 0, alpha, first)
        v, beta = normalise(orthogonalise(w, basis), noise * size)
        return (basis, v, size, first, alive & (beta != 0)), (jnp.where(alive, alpha, first), beta, sound)

    v, norm = normalise(v0, zero)
    start = (stack_of(v0, num_steps), v, zero, zero, norm != 0)
    _, (diagonal, off_diagonal, sound) = jax.lax.scan(body, start, jnp.arange(num_steps))
    return Tridiagonal(diagonal, off_diagonal, norm**2), jnp.all(sound)


class Extremes(NamedTuple):
    """Ends of a spectrum, in the working dtype: some eigenvalue lies within `*_bound` of the estimate.

    In exact arithmetic `largest` approaches from below and `smallest` from above. `converged`: whether all is finite and, with
    inverse iteration, every solve converged; it says nothing about the bounds.
    """

    smallest: Float[Array, ""]
    largest: Float[Array, ""]
    smallest_bound: Float[Array, ""]
    largest_bound: Float[Array, ""]
    converged: Bool[Array, ""]


def extreme_eigenvalues(
    mv: Operator, v0: Vector, *, num_steps: int, inverse: bool = False, tol: float = 1e-8, max_iterations: int = 10_000
) -> Extremes:
    """The smallest and the largest eigenvalue of Hermitian M from `num_steps` Lanczos steps that start at a random `v0`.

    The largest converges within tens of steps. The smallest of a positive M does so only if the condition number is moderate;
    `inverse` takes it from a second process of as many steps with M^-1, one `cg` to `tol` each, whose inaccuracy is part of
    the bound. Rounding keeps true residuals above machine epsilon times the condition number, and so must `tol` be.
    Raises ValueError for `num_steps` < 1, and with `inverse` as `cg` does.
    """
    T = lanczos(mv, v0, num_steps=num_steps)
    theta, s = T.spectrum()
    bounds = T.off_diagonal[-1] * jnp.abs(s[-1])
    if not inverse:
        return Extremes(theta[0], theta[-1], bounds[0], bounds[-1], jnp.all(jnp.isfinite(theta)))
    largest, largest_bound = theta[-1], bounds[-1]

    def solve(v: Vector) -> tuple[Vector, Bool[Array, ""]]:
        x, info = cg(mv, v, tol=tol, max_iterations=max_iterations)
        return x, info.converged

    T, solved = _process(solve, v0, num_steps)
    theta, s = T.spectrum()
    top = theta[-1]
    # a solve errs by at most tol |M^-1|, a Ritz vector's combination of them by sqrt(num_steps) times that
    error = T.off_diagonal[-1] * jnp.abs(s[-1, -1]) + tol * num_steps**0.5 * top
    bound = jnp.where(error < top, error / (top * (top - error)), jnp.inf)
    finite = jnp.isfinite(top) & jnp.isfinite(largest)
    return Extremes(1 / top, largest, bound, largest_bound, finite & solved)


def condition_number(
    mv: Operator, v0: Vector, *, num_steps: int, inverse: bool = True, tol: float = 1e-8, max_iterations: int = 10_000
) -> Float[Array, ""]:
    """largest / smallest of `extreme_eigenvalues`; nan if that did not converge or M is not positive."""
    ends = extreme_eigenvalues(mv, v0, num_steps=num_steps, inverse=inverse, tol=tol, max_iterations=max_iterations)
    sound = ends.converged & (ends.smallest > 0)
    return jnp.where(sound, ends.largest / jnp.where(sound, ends.smallest, 1.0), jnp.nan)
