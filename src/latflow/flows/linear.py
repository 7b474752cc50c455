"""Linear maps of pseudofermions that depend on the gauge field, the maps f_c of Eqs. (22)-(23) of 2207.08945.

phi = D~[U] chi with chi of density exp(-chi^dagger chi) / pi^N has the density exp(-|D~^-1 phi|^2) / (pi^N |det D~|^2). An
`AbstractConditional` has the parameters; bound to a configuration it is an `AbstractLinearMap`, which applies D~ and knows
its determinant. Both are for one configuration; batches, of configurations and of draws on one of them, come from `jax.vmap`.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Inexact

from latflow.dirac import AbstractFermion, Spinor
from latflow.precision import working_dtype

Field = Inexact[Array, "..."]
Features = Float[Array, "_ ..."] | None


class AbstractLinearMap(eqx.Module):
    """D~ of one configuration: an invertible complex-linear map of spinors `(Ns, Nc, *lattice)`, or of half the lattice in the
    storage of `latflow.lattice.Halves` for even/odd targets."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of a spinor."""

    @property
    @abc.abstractmethod
    def dtype(self) -> Any:
        """Complex type of spinors."""

    @abc.abstractmethod
    def mv(self, chi: Spinor) -> Spinor:
        """phi = D~ chi."""

    @abc.abstractmethod
    def inverse(self, phi: Spinor) -> Spinor:
        """chi = D~^-1 phi."""

    @property
    @abc.abstractmethod
    def log_abs_det(self) -> Float[Array, ""]:
        """log |det D~| of the complex matrix, summed in float64; the log Jacobian of real and imaginary parts is twice it."""

    @property
    def size(self) -> int:
        """Number N of complex components of a spinor."""
        return math.prod(self.shape)

    def matrix(self) -> Complex[Array, "size size"]:
        """The dense matrix, columns by applying `mv` to the unit vectors: O(size^2) work and memory."""
        unit = jnp.eye(self.size, dtype=self.dtype).reshape(*self.shape, self.size)
        return jax.vmap(self.mv, -1, -1)(unit).reshape(self.size, self.size)


class AbstractConditional(eqx.Module):
    """D~[U] as a function of the configuration; its floating-point arrays are the parameters."""

    @abc.abstractmethod
    def bind(self, field: Field, features: Features) -> AbstractLinearMap:
        """D~ of one configuration. `features` `(channels, *lattice)` are what a trunk makes of the same field (such as
        `latflow.nets.PlaquetteContext`), evaluated once for all conditionals; None for those that use none."""


class IdentityMap(AbstractLinearMap):
    """phi = chi."""

    spinor_shape: tuple[int, ...] = eqx.field(static=True)
    spinor_dtype: Any = eqx.field(static=True)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spinor_shape

    @property
    def dtype(self) -> Any:
        return self.spinor_dtype

    def mv(self, chi: Spinor) -> Spinor:
        return chi

    def inverse(self, phi: Spinor) -> Spinor:
        return phi

    @property
    def log_abs_det(self) -> Float[Array, ""]:
        return jnp.zeros((), working_dtype())


class IdentityConditional(AbstractConditional):
    """D~ = 1 on the spinors of `fermion`, on its even sites with `even_odd`. Raises ValueError for odd extents then."""

    fermion: AbstractFermion
    even_odd: bool = eqx.field(static=True, default=True)

    def __check_init__(self) -> None:
        if self.even_odd:
            self.fermion.geometry.require_even("even/odd preconditioning")

    def bind(self, field: Field, features: Features = None) -> IdentityMap:
        dirac = self.fermion.operator(field)
        operator = dirac.schur() if self.even_odd else dirac
        return IdentityMap(operator.shape, operator.dtype)


class ProductMap(AbstractLinearMap):
    """D~ = D~_1 D~_2 ... D~_n: the last factor acts first."""

    factors: tuple[AbstractLinearMap, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.factors[0].shape

    @property
    def dtype(self) -> Any:
        return self.factors[0].dtype

    def mv(self, chi: Spinor) -> Spinor:
        for factor in reversed(self.factors):
            chi = factor.mv(chi)
        return chi

    def inverse(self, phi: Spinor) -> Spinor:
        for factor in self.factors:
            phi = factor.inverse(phi)
        return phi

    @property
    def log_abs_det(self) -> Float[Array, ""]:
        total = jnp.zeros((), working_dtype())
        for factor in self.factors:
            total = total + factor.log_abs_det
        return total


class Product(AbstractConditional):
    """D~ = D~_1 D~_2 ... D~_n of conditionals on the same spinors, all given the same features. Raises ValueError for none, and
    when it is bound for factors that act on different spinors."""

    factors: tuple[AbstractConditional, ...]

    def __init__(self, factors: Sequence[AbstractConditional]):
        if not factors:
            raise ValueError("a product needs at least one factor; the identity is IdentityConditional")
        self.factors = tuple(factors)

    def bind(self, field: Field, features: Features) -> ProductMap:
        bound = tuple(factor.bind(field, features) for factor in self.factors)
        if len(kinds := {(factor.shape, jnp.dtype(factor.dtype)) for factor in bound}) > 1:
            raise ValueError(f"the factors of a product must act on the same spinors, got {sorted(map(str, kinds))}")
        return ProductMap(bound)
