"""Bijections made of bijections: chains, stacks run by `lax.scan`, inverses, the identity."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from latflow.flows.base import AbstractBijection
from latflow.precision import working_dtype

Field = Inexact[Array, "..."]


def _zero(shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
    return jnp.zeros(shape, working_dtype())


class Identity(AbstractBijection):
    """f(x) = x."""

    def forward_and_log_det(self, x: Field, context: Any = None) -> tuple[Field, Float[Array, ""]]:
        return x, _zero()

    def inverse_and_log_det(self, y: Field, context: Any = None) -> tuple[Field, Float[Array, ""]]:
        return y, _zero()


class Inverse(AbstractBijection):
    """The inverse of a bijection as a bijection."""

    bijection: AbstractBijection

    def forward_and_log_det(self, x: Field, context: Any = None) -> tuple[Field, Float[Array, ""]]:
        return self.bijection.inverse_and_log_det(x, context)

    def inverse_and_log_det(self, y: Field, context: Any = None) -> tuple[Field, Float[Array, ""]]:
        return self.bijection.forward_and_log_det(y, context)

    def forward_batch(self, x: Field, context: Any = None) -> tuple[Field, Float[Array, " batch"]]:
        return self.bijection.inverse_batch(x, context)

    def inverse_batch(self, y: Field, context: Any = None) -> tuple[Field, Float[Array, " batch"]]:
        return self.bijection.forward_batch(y, context)


class AbstractComposite(AbstractBijection):
    """One sequence of applications, run by any of the four methods of its parts."""

    @abc.abstractmethod
    def _run(self, x: Field, total: Float[Array, "..."], context: Any, method: str, reverse: bool) -> Any:
        """(the field after all parts, total + their log dets)."""

    def forward_and_log_det(self, x: Field, context: Any = None) -> tuple[Field, Float[Array, ""]]:
        return self._run(x, _zero(), context, "forward_and_log_det", False)

    def inverse_and_log_det(self, y: Field, context: Any = None) -> tuple[Field, Float[Array, ""]]:
        return self._run(y, _zero(), context, "inverse_and_log_det", True)

    def forward_batch(self, x: Field, context: Any = None) -> tuple[Field, Float[Array, " batch"]]:
        return self._run(x, _zero(x.shape[-1:]), context, "forward_batch", False)

    def inverse_batch(self, y: Field, context: Any = None) -> tuple[Field, Float[Array, " batch"]]:
        return self._run(y, _zero(y.shape[-1:]), context, "inverse_batch", True)


class Chain(AbstractComposite):
    """f_n o ... o f_1, applied first to last."""

    bijections: tuple[AbstractBijection, ...]

    def __init__(self, bijections: Sequence[AbstractBijection]):
        self.bijections = tuple(bijections)

    def _run(self, x: Field, total: Float[Array, "..."], context: Any, method: str, reverse: bool) -> Any:
        for bijection in reversed(self.bijections) if reverse else self.bijections:
            x, log_det = getattr(bijection, method)(x, context)
            total = total + log_det
        return x, total


class Scan(AbstractComposite):
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

    def _run(self, x: Field, total: Float[Array, "..."], context: Any, method: str, reverse: bool) -> Any:
        dynamic, static = eqx.partition(self.stacked, eqx.is_array)

        def body(carry: tuple[Field, Float[Array, "..."]], leaves: Any):
            field, total = carry
            field, log_det = getattr(eqx.combine(leaves, static), method)(field, context)
            return (field, total + log_det), None

        if self.rematerialise:
            body = jax.checkpoint(body)
        return jax.lax.scan(body, (x, total), dynamic, reverse=reverse)[0]
