"""What a Dirac operator is: a linear map of spinor fields, bound to one configuration, with a gamma5 that relates it to its
adjoint."""

from __future__ import annotations

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, PRNGKeyArray

Spinor = Complex[Array, "..."]


class AbstractDirac(eqx.Module):
    """D of one configuration on spinors `(Ns, Nc, *lattice)` (staggered: `(1, Nc, *lattice)`; even/odd: of half a lattice).

    gamma5 D gamma5 = D^dagger, with gamma5 Hermitian and of square one, for every operator here; hence det D is real, and
    H = D gamma5 is Hermitian with H^2 = D D^dagger.
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of a spinor."""

    @property
    @abc.abstractmethod
    def dtype(self) -> Any:
        """Complex type of spinors."""

    @abc.abstractmethod
    def mv(self, psi: Spinor) -> Spinor:
        """D psi."""

    @abc.abstractmethod
    def gamma5(self, psi: Spinor) -> Spinor:
        """gamma5 psi; for staggered fermions the sign of the site."""

    def adjoint(self, psi: Spinor) -> Spinor:
        """D^dagger psi."""
        return self.gamma5(self.mv(self.gamma5(psi)))

    def hermitian(self, psi: Spinor) -> Spinor:
        """H psi with H = D gamma5."""
        return self.mv(self.gamma5(psi))

    def normal(self, psi: Spinor) -> Spinor:
        """D D^dagger psi."""
        return self.mv(self.adjoint(psi))

    def matrix(self) -> Complex[Array, "size size"]:
        """The dense matrix: O(size^2) work and memory."""
        return dense(self)

    @property
    def size(self) -> int:
        """Number of complex components of a spinor."""
        return math.prod(self.shape)

    def random(self, key: PRNGKeyArray) -> Spinor:
        """A Gaussian spinor of density exp(-eta^dagger eta) / pi^size."""
        return jax.random.normal(key, self.shape, self.dtype)


def dense(operator: AbstractDirac) -> Complex[Array, "size size"]:
    """The matrix of `mv`, columns by applying it to the unit vectors: O(size^2) work and memory."""
    unit = jnp.eye(operator.size, dtype=operator.dtype).reshape(*operator.shape, operator.size)
    return jax.vmap(operator.mv, -1, -1)(unit).reshape(operator.size, operator.size)
