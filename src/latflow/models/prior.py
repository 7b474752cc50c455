"""Priors: densities that can be sampled directly and evaluated exactly."""

from __future__ import annotations

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Int, PRNGKeyArray

from latflow.actions import AbstractAction
from latflow.exact import FreeField
from latflow.groups import AbstractGroup
from latflow.lattice import Geometry
from latflow.precision import double_sum, working_dtype

Field = Inexact[Array, "..."]


class AbstractPrior(eqx.Module):
    """A normalised density on configurations, with respect to the Haar measure for links and Lebesgue for scalars."""

    @abc.abstractmethod
    def sample(self, key: PRNGKeyArray) -> Field:
        """One independent configuration."""

    @abc.abstractmethod
    def log_density(self, x: Field) -> Float[Array, ""]:
        """log r(x), normalised."""

    @property
    def trainable(self) -> bool:
        """Whether the floating-point arrays of the prior are parameters of the model."""
        return False

    @property
    def limit(self) -> int | None:
        """How many configurations an ensemble may take from it; None: as many as it likes."""
        return None

    def sample_and_log_density(self, key: PRNGKeyArray) -> tuple[Field, Float[Array, ""]]:
        x = self.sample(key)
        return x, self.log_density(x)

    def draw(self, key: PRNGKeyArray, size: int, start: Int[Array, ""] | None = None) -> tuple[Field, Float[Array, " batch"]]:
        """`size` configurations, batch axis LAST, and their log densities.

        `start` is the number of configurations drawn before in the same ensemble; only a prior that holds an ensemble of its
        own, which it then gives in order, cares.
        """
        return jax.vmap(self.sample_and_log_density, out_axes=(-1, 0))(jax.random.split(key, size))


class HaarPrior(AbstractPrior):
    """Independent links from the Haar measure: log density 0."""

    geometry: Geometry = eqx.field(static=True)
    group: AbstractGroup
    dtype: Any = eqx.field(static=True, default=jnp.float32)

    def sample(self, key: PRNGKeyArray) -> Field:
        return self.group.haar(key, (self.geometry.Nd, *self.geometry.shape), self.dtype)

    def log_density(self, x: Field) -> Float[Array, ""]:
        return jnp.zeros((), working_dtype())


class NormalPrior(AbstractPrior):
    """Independent Gaussian sites of standard deviation `scale`."""

    geometry: Geometry = eqx.field(static=True)
    scale: float = 1.0
    dtype: Any = eqx.field(static=True, default=jnp.float32)

    def sample(self, key: PRNGKeyArray) -> Field:
        return self.scale * jax.random.normal(key, self.geometry.shape, self.dtype)

    def log_density(self, x: Field) -> Float[Array, ""]:
        norm = self.geometry.volume * math.log(self.scale * math.sqrt(2 * math.pi))
        return -double_sum((x / self.scale) ** 2) / 2 - norm


class ExactPrior(AbstractPrior):
    """A solved theory of `latflow.exact` (anything with `sample` and a normalised `log_density`) as a prior."""

    theory: Any

    def sample(self, key: PRNGKeyArray) -> Field:
        return self.theory.sample(key)

    def log_density(self, x: Field) -> Float[Array, ""]:
        return self.theory.log_density(x)


class FreeFieldPrior(AbstractPrior):
    """A free scalar field whose mass squared exp(log_m2) is trained together with the flow: it carries the long-distance
    modes from the start, so that the flow only learns the interaction."""

    log_m2: Float[Array, ""]
    geometry: Geometry = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(self, geometry: Geometry, m2: float, dtype=jnp.float32):
        """Raises ValueError unless m2 > 0."""
        if not m2 > 0:
            raise ValueError(f"a free field needs a positive mass squared, got m2 = {m2}")
        self.geometry, self.dtype = geometry, dtype
        self.log_m2 = jnp.asarray(math.log(m2), dtype)

    @property
    def trainable(self) -> bool:
        return True

    def _theory(self) -> FreeField:
        return FreeField(self.geometry, jnp.exp(self.log_m2), self.dtype)

    def sample(self, key: PRNGKeyArray) -> Field:
        return self._theory().sample(key)

    def log_density(self, x: Field) -> Float[Array, ""]:
        return self._theory().log_density(x)


class StoredPrior(AbstractPrior):
    """An ensemble of exp(-action) made by another sampler, mapped configuration by configuration (2401.10874).

    The density is not normalised: log Z of a model with this prior is log(Z / Z_prior). Training draws configurations at
    random, none twice in a batch that is not larger than the ensemble. An ensemble takes each once and in order, so that its
    series has the autocorrelation of the stored one.
    """

    configurations: Inexact[Array, "n ..."]
    action: AbstractAction

    def __check_init__(self):
        if self.configurations.shape[1:] != self.action.field_shape or not len(self.configurations):
            raise ValueError(
                f"the stored ensemble has {len(self.configurations)} configurations of shape "
                f"{self.configurations.shape[1:]}; the action needs some of shape {self.action.field_shape}"
            )

    def sample(self, key: PRNGKeyArray) -> Field:
        return self.configurations[jax.random.randint(key, (), 0, len(self.configurations))]

    def log_density(self, x: Field) -> Float[Array, ""]:
        return -self.action(x)

    def draw(self, key: PRNGKeyArray, size: int, start: Int[Array, ""] | None = None) -> tuple[Field, Float[Array, " batch"]]:
        """With `start`, the configurations start, start + 1, ...; the caller sees to it that they exist."""
        if start is None:
            chosen = jax.random.choice(key, self.limit, (size,), replace=size > self.limit)
        else:
            chosen = start + jnp.arange(size)
        x = jnp.moveaxis(jnp.take(self.configurations, chosen, axis=0, mode="clip"), 0, -1)
        return x, jax.vmap(self.log_density, in_axes=-1)(x)

    @property
    def limit(self) -> int:
        return len(self.configurations)
