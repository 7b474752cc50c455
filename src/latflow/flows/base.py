"""Bijections: two methods are written, the rest is derived."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, Inexact

Field = Inexact[Array, "..."]


class AbstractBijection(eqx.Module):
    """A differentiable bijection of one configuration. `log_det` is log|det J| of the direction just applied, with
    respect to the Haar measure for links and the Lebesgue measure for scalars."""

    @abc.abstractmethod
    def forward_and_log_det(self, x: Field, context: Any = None) -> tuple[Field, Float[Array, ""]]:
        """(f(x), log|det df/dx|), from prior to target."""

    @abc.abstractmethod
    def inverse_and_log_det(self, y: Field, context: Any = None) -> tuple[Field, Float[Array, ""]]:
        """(f^-1(y), log|det df^-1/dy|)."""

    def forward(self, x: Field, context: Any = None) -> Field:
        return self.forward_and_log_det(x, context)[0]

    def inverse(self, y: Field, context: Any = None) -> Field:
        return self.inverse_and_log_det(y, context)[0]

    def forward_batch(self, x: Field, context: Any = None) -> tuple[Field, Float[Array, " batch"]]:
        """`forward_and_log_det` of many configurations, the batch on the LAST axis of fields and contexts. Bijections made of
        others hand the batch down instead of being mapped as a whole: a mapped `lax.scan` would move its axis to the front."""
        return jax.vmap(self.forward_and_log_det, in_axes=-1, out_axes=(-1, 0))(x, context)

    def inverse_batch(self, y: Field, context: Any = None) -> tuple[Field, Float[Array, " batch"]]:
        """`inverse_and_log_det` of many configurations, as `forward_batch`."""
        return jax.vmap(self.inverse_and_log_det, in_axes=-1, out_axes=(-1, 0))(y, context)
