"""Where to start a solve from, given the solutions of similar ones before."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from latflow.precision import working_dtype
from latflow.solvers.vectors import (
    Operator,
    Vector,
    apply,
    combine,
    component,
    dot,
    inner,
    normalise,
    orthogonalise,
    resolution,
    scale,
    select,
    stack_of,
    with_component,
    zeros_like,
)


def forecast(mv: Operator, b: Vector, previous: Vector) -> Vector:
    """An initial guess for M x = b in the span of `previous`, vectors like b stacked on a leading axis.

    The minimal residual extrapolation of R. C. Brower, T. Ivanenko, A. R. Levi and K. N. Orginos, hep-lat/9509012: as conjugate
    gradients do, it minimises x^dagger M x - 2 Re b^dagger x over the span, so that the residual is orthogonal to it. The
    coefficients are complex if all leaves are. One product with M per vector. Earlier vectors of the stack take precedence: a
    vector that is zero, not finite, or within rounding of the span of those before it adds nothing, and if none is left the
    guess is zero. A guess that depends on the past makes a trajectory irreversible unless solves are tight.
    """
    count = jax.tree.leaves(previous)[0].shape[0]
    threshold = jnp.asarray(100 * resolution(b), working_dtype())

    def add(k, basis: Vector) -> Vector:
        v = component(previous, k)
        size = jnp.sqrt(inner(v, v))
        usable = jnp.isfinite(size) & (size > 0)
        v = scale(1 / jnp.where(usable, size, 1.0), select(usable, v, zeros_like(v)))
        return with_component(basis, k, normalise(orthogonalise(v, basis), threshold)[0])

    basis = jax.lax.fori_loop(0, count, add, stack_of(b, count))
    images = jax.lax.map(lambda v: apply(mv, v), basis)
    gram = jax.vmap(lambda v: jax.vmap(lambda image: dot(v, image))(images))(basis)
    gram = (gram + gram.conj().T) / 2
    empty = jnp.real(jnp.diagonal(gram)) == 0
    coefficients = jnp.linalg.solve(gram + jnp.diag(empty.astype(gram.dtype)), jax.vmap(dot, (0, None))(basis, b))
    return combine(coefficients, basis)
