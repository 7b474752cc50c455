"""Bijections made of bijections: chains, stacks run by `lax.scan`, inverses, the identity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from latflow.flows.base import AbstractBijection

Field = Inexact[Array, "..."]


def _zero(x: Field) -> Float[Array, ""]:
    return jnp.zeros((), jnp.finfo(x.dtype).dtype)


class Identity(AbstractBijection):
    """f(x) = x."""

    def forward_and_log_det(self, x: Field, context: Any = None) -> tuple[Field, Float[Array, ""]]:
        return x, _zero(x)

    def inverse_and_log_det(self, y: Field, context: Any = None) -> tuple[Field, Float[Array, ""]]:
        return y, _zero(y)


class Inverse(AbstractBijection):
    """The inverse of a bijection as a bijection."""

    bijection: AbstractBijection

    def forward_and_log_det(self, x: Field, context: Any = None) -> tuple[Field, Float[Array, ""]]:
        return self.bijection.inverse_and_log_det(x, context)

    def inverse_and_log_det(self, y: Field, context: Any = None) -> tuple[Field, Float[Array, ""]]:
        return self.bijection.forward_and_log_det(y, context)


class Chain(AbstractBijection):
    """f_n o ... o f_1, applied first to last."""

    bijections: tuple[AbstractBijection, ...]

    def __init__(self, bijections: Sequence[AbstractBijection]):
        self.bijections = tuple(bijections)

    def forward_and_log_det(self, x: Field, context: Any = None) -> tuple[Field, Float[Array, ""]]:
        total = _zero(x)
        for bijection in self.bijections:
            x, log_det = bijection.forward_and_log_det(x, context)
            total = total + log_det
        return x, total

    def inverse_and_log_det(self, y: Field, context: Any = None) -> tuple[Field, Float[Array, ""]]:
        total = _zero(y)
        for bijection in reversed(self.bijections):
            y, log_det = bijection.inverse_and_log_det(y, context)
            total = total + log_det
        return y, total


class Scan(AbstractBijection):
    """A stack of equal bijections with parameters on a leading axis, applied in order by `lax.scan`.

    The body is compiled once whatever the depth. With `rematerialise` only the field between bijections is kept for the
    backward pass, so that memory grows by one field per bijection instead of by all its activations.
    """

    stacked: AbstractBijection
    rematerialise: bool = eqx.field(static=True)

    def __init__(self, bijections: Sequence[AbstractBijection], rematerialise: bool = False):
        """Raises ValueError if the bijections differ in structure, which would need a `Chain`."""
        dynamic, static = zip(*(eqx.partition(b, eqx.is_array) for b in bijections), strict=True)
        if any(not eqx.tree_equal(static[0], s) for s in static[1:]):
            raise ValueError("only bijections of equal structure can be scanned; put different ones into a Chain")
        self.stacked = eqx.combine(jax.tree.map(lambda *leaves: jnp.stack(leaves), *dynamic), static[0])
        self.rematerialise = rematerialise

    def _run(self, x: Field, context: Any, method: str, reverse: bool) -> tuple[Field, Float[Array, ""]]:
        dynamic, static = eqx.partition(self.stacked, eqx.is_array)

        def body(carry: tuple[Field, Float[Array, ""]], leaves: Any):
            field, total = carry
            field, log_det = getattr(eqx.combine(leaves, static), method)(field, context)
            return (field, total + log_det), None

        if self.rematerialise:
            body = jax.checkpoint(body)
        (x, total), _ = jax.lax.scan(body, (x, _zero(x)), dynamic, reverse=reverse)
        return x, total

    def forward_and_log_det(self, x: Field, context: Any = None) -> tuple[Field, Float[Array, ""]]:
        return self._run(x, context, "forward_and_log_det", reverse=False)

    def inverse_and_log_det(self, y: Field, context: Any = None) -> tuple[Field, Float[Array, ""]]:
        return self._run(y, context, "inverse_and_log_det", reverse=True)
