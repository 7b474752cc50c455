"""The part A of D = A + H that is diagonal in the sites."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact

from latflow.dirac import gamma
from latflow.dirac.base import Spinor
from latflow.groups import AbstractGroup
from latflow.lattice import Geometry, Halves
from latflow.loops.clover import field_strength
from latflow.precision import double_sum


class AbstractSiteTerm(eqx.Module):
    """A of one configuration; on the whole lattice or on one of its halves."""

    @abc.abstractmethod
    def apply(self, psi: Spinor) -> Spinor:
        """A psi."""

    @abc.abstractmethod
    def inverse(self) -> AbstractSiteTerm:
        """A^-1."""

    @abc.abstractmethod
    def log_abs_det(self) -> Float[Array, ""]:
        """log |det A|."""

    @abc.abstractmethod
    def sign(self) -> Float[Array, ""]:
        """The sign of det A."""

    @abc.abstractmethod
    def matrix(self, n: int, sites: int, dtype: Any) -> Complex[Array, "n n sites"]:
        """A as matrices of the index (spin, colour), sites in one axis."""

    @property
    @abc.abstractmethod
    def is_scalar(self) -> bool:
        """Whether A is a number on every site."""

    @abc.abstractmethod
    def split(self, splitting: Halves) -> tuple[AbstractSiteTerm, AbstractSiteTerm]:
        """(even, odd) halves."""


class Unit(AbstractSiteTerm):
    """A = 1."""

    dtype: Any = eqx.field(static=True)

    def apply(self, psi: Spinor) -> Spinor:
        return psi

    def inverse(self) -> Unit:
        return self

    def log_abs_det(self) -> Float[Array, ""]:
        return double_sum(jnp.zeros((1,), self.dtype))

    def sign(self) -> Float[Array, ""]:
        return jnp.ones((), self.dtype)

    def matrix(self, n: int, sites: int, dtype: Any) -> Complex[Array, "n n sites"]:
        return jnp.broadcast_to(jnp.eye(n, dtype=dtype)[:, :, None], (n, n, sites))

    @property
    def is_scalar(self) -> bool:
        return True

    def split(self, splitting: Halves) -> tuple[Unit, Unit]:
        return self, self


class ScalarTerm(AbstractSiteTerm):
    """A = s(x), the same real number for the `components` spins and colours of a site."""

    values: Float[Array, "..."]
    components: int = eqx.field(static=True)

    def apply(self, psi: Spinor) -> Spinor:
        return self.values[None, None] * psi

    def inverse(self) -> ScalarTerm:
        return ScalarTerm(1 / self.values, self.components)

    def log_abs_det(self) -> Float[Array, ""]:
        return self.components * double_sum(jnp.log(jnp.abs(self.values)))

    def sign(self) -> Float[Array, ""]:
        return jnp.prod(jnp.sign(self.values)) ** self.components

    def matrix(self, n: int, sites: int, dtype: Any) -> Complex[Array, "n n sites"]:
        return jnp.eye(n, dtype=dtype)[:, :, None] * self.values.reshape(1, 1, sites).astype(dtype)

    @property
    def is_scalar(self) -> bool:
        return True

    def split(self, splitting: Halves) -> tuple[ScalarTerm, ScalarTerm]:
        even, odd = splitting.split(self.values)
        return ScalarTerm(even, self.components), ScalarTerm(odd, self.components)


class CloverTerm(AbstractSiteTerm):
    """A = 1 + (i/2) kappa c_sw sigma_{mu nu} F_{mu nu}, B. Sheikholeslami and R. Wohlert, Nucl. Phys. B 259 (1985) 572, in the
    normalisation of hep-lat/9605038, times 2 kappa.

    sigma_{mu nu} = (i/2) [gamma_mu, gamma_nu] commutes with gamma5, so that A falls into one Hermitian block per chirality,
    `blocks` (2, n, n, *lattice) with n = Ns Nc / 2 and the index (spin, colour).
    """

    blocks: Complex[Array, "2 n n ..."]

    @classmethod
    def of(
        cls, group: AbstractGroup, geometry: Geometry, links: Inexact[Array, "..."], kappa: Array | float, csw: Array | float
    ) -> CloverTerm:
        """With Hermitian F (P = exp(iF)): the anti-Hermitian one of the formula is i F, so A = 1 - kappa c_sw sum_{mu < nu}
        sigma_{mu nu} F_{mu nu}."""
        Nd, half = geometry.Nd, gamma.num_spins(geometry.Nd) // 2
        g = gamma.matrices(Nd)
        n = half * group.Nc
        total: Any = 0
        for mu, nu in geometry.planes:
            F = field_strength(group, geometry, links, mu, nu)
            F = F if group.colour_shape else F[None, None]
            sigma = 0.5j * (g[mu] @ g[nu] - g[nu] @ g[mu])
            spins = np.stack([sigma[:half, :half], sigma[half:, half:]])
            spins = jnp.asarray(spins, jnp.result_type(F.dtype, jnp.complex64))
            product = spins[(..., None, None, *[None] * Nd)] * F[None, None, None].astype(spins.dtype)
            total = total + product.transpose(0, 1, 3, 2, 4, *range(5, 5 + Nd))
        factor = jnp.asarray(kappa * csw, total.real.dtype)
        unit = jnp.eye(n, dtype=total.dtype).reshape(1, n, n, *[1] * Nd)
        return cls(unit - factor * total.reshape(2, n, n, *geometry.shape))

    def _chiral(self, psi: Spinor) -> Array:
        """(2, n, *lattice)."""
        return psi.reshape(2, self.blocks.shape[1], *psi.shape[2:])

    def apply(self, psi: Spinor) -> Spinor:
        return (self.blocks * self._chiral(psi)[:, None]).sum(2).reshape(psi.shape)

    def inverse(self) -> CloverTerm:
        return CloverTerm(jnp.moveaxis(jnp.linalg.inv(self._sites_first()), (-2, -1), (1, 2)))

    def _sites_first(self) -> Array:
        return jnp.moveaxis(self.blocks, (1, 2), (-2, -1))

    def log_abs_det(self) -> Float[Array, ""]:
        return double_sum(jnp.linalg.slogdet(self._sites_first())[1])

    def sign(self) -> Float[Array, ""]:
        return jnp.prod(jnp.real(jnp.linalg.slogdet(self._sites_first())[0]))

    def matrix(self, n: int, sites: int, dtype: Any) -> Complex[Array, "n n sites"]:
        up, down = self.blocks.reshape(2, n // 2, n // 2, sites).astype(dtype)
        zero = jnp.zeros_like(up)
        return jnp.concatenate([jnp.concatenate([up, zero], 1), jnp.concatenate([zero, down], 1)])

    @property
    def is_scalar(self) -> bool:
        return False

    def split(self, splitting: Halves) -> tuple[CloverTerm, CloverTerm]:
        even, odd = splitting.split(self.blocks)
        return CloverTerm(even), CloverTerm(odd)
