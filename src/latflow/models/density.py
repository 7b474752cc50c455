"""The flow density: a prior pushed through a bijection."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Int, PRNGKeyArray

from latflow.flows.base import AbstractBijection
from latflow.models.prior import AbstractPrior

Field = Inexact[Array, "..."]


class FlowModel(eqx.Module):
    """q(y) = r(f^-1(y)) |det df^-1/dy| for a prior r and a bijection f.

    Batches are mapped with the batch axis LAST inside (contiguous in memory, which is what the CPU wants, see
    docs/performance.md) and FIRST at the interface.
    """

    prior: AbstractPrior
    bijection: AbstractBijection

    def sample_and_log_q(self, key: PRNGKeyArray, context: Any = None) -> tuple[Field, Float[Array, ""]]:
        """One configuration y and log q(y)."""
        z, log_r = self.prior.sample_and_log_density(key)
        y, log_det = self.bijection.forward_and_log_det(z, context)
        return y, log_r - log_det

    def log_q(self, y: Field, context: Any = None) -> Float[Array, ""]:
        """log q(y) of any configuration."""
        z, log_det = self.bijection.inverse_and_log_det(y, context)
        return self.prior.log_density(z) + log_det

    def partition(self) -> tuple[FlowModel, FlowModel]:
        """(parameters, rest): floating-point arrays of the bijection, and of the prior if it is trainable."""
        parameters = jax.tree.map(lambda _: False, self)
        parameters = eqx.tree_at(lambda m: m.bijection, parameters, jax.tree.map(eqx.is_inexact_array, self.bijection))
        if self.prior.trainable:
            parameters = eqx.tree_at(lambda m: m.prior, parameters, jax.tree.map(eqx.is_inexact_array, self.prior))
        return eqx.partition(self, parameters)

    def draw(
        self, key: PRNGKeyArray, size: int, context: Any = None, start: Int[Array, ""] | None = None
    ) -> tuple[Field, Float[Array, " batch"]]:
        """`size` configurations, batch axis LAST, and their log q; `start` as for the prior."""
        z, log_r = self.prior.draw(key, size, start)
        y, log_det = self.bijection.forward_batch(z, context)
        return y, log_r - log_det

    def log_q_of(self, y: Field, context: Any = None) -> Float[Array, " batch"]:
        """log q of a batch of configurations, batch axis LAST."""
        z, log_det = self.bijection.inverse_batch(y, context)
        return jax.vmap(self.prior.log_density, in_axes=-1)(z) + log_det

    def sample_batch(self, key: PRNGKeyArray, size: int) -> tuple[Inexact[Array, "batch ..."], Float[Array, " batch"]]:
        """`draw` with the batch axis first."""
        y, log_q = self.draw(key, size)
        return jnp.moveaxis(y, -1, 0), log_q

    def log_q_batch(self, y: Inexact[Array, "batch ..."]) -> Float[Array, " batch"]:
        """`log_q_of` with the batch axis first."""
        return self.log_q_of(jnp.moveaxis(y, 0, -1))
