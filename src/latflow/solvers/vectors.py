"""Linear algebra of vectors that are arrays or pytrees of arrays: inner products in float64, fields in their own precision.

A stack of vectors has one more axis, the leading one of every leaf.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact, PyTree

from latflow.precision import working_dtype

Vector = PyTree[Inexact[Array, "..."]]
Operator = Callable[[Vector], Vector]
Scalar = Float[Array, ""]


def apply(mv: Operator, x: Vector) -> Vector:
    """M x. Raises ValueError if `mv` changes the structure, a shape or a type."""
    y = mv(x)
    expected, got = (jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), v) for v in (x, y))
    if expected != got:
        raise ValueError(
            f"an operator must return a vector of the structure, shapes and types of its argument, {expected}, got {got}"
        )
    return y


def inner(a: Vector, b: Vector) -> Scalar:
    """Re a^dagger b, multiplied and accumulated in the working dtype."""
    return _total(a, b, lambda x, y: _parts(x.real, y.real, x.imag, y.imag) if jnp.iscomplexobj(x) else _parts(x, y))


def dot(a: Vector, b: Vector) -> Inexact[Array, ""]:
    """a^dagger b like `inner`, complex for vectors that are complex throughout, for others its real part."""
    if not all(jnp.iscomplexobj(x) for x in jax.tree.leaves(a)):
        return inner(a, b)
    imaginary = _total(a, b, lambda x, y: _parts(x.real, y.imag, -x.imag, y.real))
    return jax.lax.complex(inner(a, b), imaginary)


def _total(a: Vector, b: Vector, term: Callable[[Array, Array], Scalar]) -> Scalar:
    terms = [term(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]
    return sum(terms, jnp.zeros((), working_dtype()))


def _parts(*factors: Array) -> Scalar:
    """sum (f0 f1 + f2 f3 + ...)."""
    wide = [f.astype(working_dtype()) for f in factors]
    return jnp.sum(sum(x * y for x, y in zip(wide[::2], wide[1::2], strict=True)))


def scale(a: Scalar, x: Vector) -> Vector:
    """a x for real a, in the types of x."""
    return jax.tree.map(lambda x: a.astype(x.real.dtype) * x, x)


def add_scaled(y: Vector, a: Scalar, x: Vector) -> Vector:
    """y + a x for real a, in the types of y."""
    return jax.tree.map(lambda y, x: y + a.astype(y.real.dtype) * x, y, x)


def subtract(x: Vector, y: Vector) -> Vector:
    """x - y."""
    return jax.tree.map(jnp.subtract, x, y)


def select(condition: Bool[Array, ""], x: Vector, y: Vector) -> Vector:
    """x where the condition holds, else y."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), x, y)


def zeros_like(x: Vector) -> Vector:
    """0."""
    return jax.tree.map(jnp.zeros_like, x)


def stack_of(x: Vector, count: int) -> Vector:
    """A stack of `count` zeros."""
    return jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), x)


def component(stack: Vector, k: Array | int) -> Vector:
    """Vector k of a stack."""
    return jax.tree.map(lambda s: s[k], stack)


def with_component(stack: Vector, k: Array | int, x: Vector) -> Vector:
    """The stack with vector k replaced."""
    return jax.tree.map(lambda s, x: s.at[k].set(x), stack, x)


def combine(coefficients: Inexact[Array, " k"], stack: Vector) -> Vector:
    """sum_k c_k v_k in the types of the stack."""

    def one(leaf: Array) -> Array:
        c = coefficients.astype(leaf.dtype).reshape(-1, *[1] * (leaf.ndim - 1))
        return jnp.sum(c * leaf, axis=0)

    return jax.tree.map(one, stack)


def orthogonalise(x: Vector, basis: Vector) -> Vector:
    """x without its components along an orthonormal stack (zeros in it do no harm), by Gram-Schmidt done twice."""
    for _ in range(2):
        x = subtract(x, combine(jax.vmap(dot, (0, None))(basis, x), basis))
    return x


def normalise(x: Vector, threshold: Scalar) -> tuple[Vector, Scalar]:
    """(x / |x|, |x|), and zeros for a norm that is not above the threshold; nan stays nan."""
    norm = jnp.sqrt(inner(x, x))
    small = norm <= threshold
    return select(small, zeros_like(x), scale(1 / jnp.where(small, 1.0, norm), x)), jnp.where(small, 0.0, norm)


def resolution(x: Vector) -> float:
    """The largest machine epsilon among the leaves."""
    return max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(x))


def require_settings(tol: float, max_iterations: int) -> None:
    """Raises ValueError for a tolerance or a number of iterations with which no solve can end well."""
    if not 0 < tol < 1:
        raise ValueError(f"a relative tolerance lies between 0 and 1, got {tol}")
    if max_iterations < 0:
        raise ValueError(f"the largest number of iterations cannot be negative, got {max_iterations}")
