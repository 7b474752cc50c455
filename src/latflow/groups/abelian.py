"""U(1) as angles, and the real line on which scalar fields live: both abelian, both real arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from latflow.groups.base import AbstractGroup
from latflow.precision import double_sum


def wrap(theta: Float[Array, "..."]) -> Float[Array, "..."]:
    """The angle in [-pi, pi) equal to theta modulo 2 pi."""
    return theta - 2 * jnp.pi * jnp.floor((theta + jnp.pi) / (2 * jnp.pi))


class _AbstractAbelian(AbstractGroup):
    @property
    def colour_shape(self) -> tuple[int, ...]:
        return ()

    @property
    def dimension(self) -> int:
        return 1

    def identity(self, shape: tuple[int, ...], dtype=None) -> Float[Array, "..."]:
        return jnp.zeros(shape, dtype)

    def multiply(self, a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
        return a + b

    def adjoint(self, a: Float[Array, "..."]) -> Float[Array, "..."]:
        return -a

    def random_algebra(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype=None) -> Float[Array, "..."]:
        return jax.random.normal(key, shape, jnp.zeros((), dtype).dtype)

    def inner(self, x: Float[Array, "..."], y: Float[Array, "..."]) -> Float[Array, ""]:
        return double_sum(x * y)

    def exp(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return x

    def gradient(
        self, function: Callable[[Array], Any], field: Float[Array, "..."], has_aux: bool = False
    ) -> tuple[Any, Float[Array, "..."]]:
        return jax.value_and_grad(function, has_aux=has_aux)(field)

    def bracket(self, x: Float[Array, "..."], y: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.zeros_like(y)

    def coordinates(self, x: Float[Array, "..."]) -> Float[Array, "1 ..."]:
        return x[None]

    def from_coordinates(self, x: Float[Array, "1 ..."]) -> Float[Array, "..."]:
        return x[0]


class U1(_AbstractAbelian):
    """U(1), an element exp(i theta) stored as its angle. Angles may leave [-pi, pi); `reunitarise` wraps them back."""

    Nc: int = eqx.field(default=1, static=True)

    def embed(self, a: Float[Array, "..."]) -> Complex[Array, "..."]:
        return jax.lax.complex(jnp.cos(a), jnp.sin(a))

    def project(self, w: Complex[Array, "..."]) -> Float[Array, "..."]:
        return jnp.angle(w)

    def trace_gradient(self, w: Complex[Array, "..."]) -> Float[Array, "..."]:
        return -jnp.imag(w)

    def re_trace(self, a: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.cos(a)

    def haar(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype=None) -> Float[Array, "..."]:
        return jax.random.uniform(key, shape, jnp.zeros((), dtype).dtype, minval=-jnp.pi, maxval=jnp.pi)

    def reunitarise(self, a: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        return wrap(a), jnp.zeros((), a.dtype)


class RealLine(_AbstractAbelian):
    """(R, +) for scalar fields. It has no normalisable invariant measure, so `haar` raises ValueError."""

    Nc: int = eqx.field(default=1, static=True)

    def embed(self, a: Float[Array, "..."]) -> Float[Array, "..."]:
        return a

    def project(self, w: Float[Array, "..."]) -> Float[Array, "..."]:
        return w

    def trace_gradient(self, w: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.ones_like(w)

    def re_trace(self, a: Float[Array, "..."]) -> Float[Array, "..."]:
        return a

    def haar(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype=None) -> Float[Array, "..."]:
        raise ValueError("the real line has no normalised invariant measure; use a normal or free-field prior")

    def reunitarise(self, a: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        return a, jnp.zeros((), a.dtype)
