"""Priors: densities that can be sampled directly and evaluated exactly."""

from __future__ import annotations

import abc

import equinox as eqx
from jaxtyping import Array, Float, Inexact, PRNGKeyArray

Field = Inexact[Array, "..."]


class AbstractPrior(eqx.Module):
    """A normalised density on configurations, with respect to the Haar measure for links and Lebesgue for scalars."""

    @abc.abstractmethod
    def sample(self, key: PRNGKeyArray) -> Field:
        """One independent configuration."""

    @abc.abstractmethod
    def log_density(self, x: Field) -> Float[Array, ""]:
        """log r(x), normalised."""

    def sample_and_log_density(self, key: PRNGKeyArray) -> tuple[Field, Float[Array, ""]]:
        x = self.sample(key)
        return x, self.log_density(x)
