"""Dirac operators D = A + H, and their Schur complements on the even sites."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from latflow.dirac.assembly import Coupling, complement_couplings, dense_matrix, full_couplings
from latflow.dirac.base import AbstractDirac, Spinor
from latflow.dirac.hopping import AbstractHalfHopping, AbstractHopping, AbstractStencil
from latflow.dirac.site_terms import AbstractSiteTerm
from latflow.precision import working_dtype


class AbstractFactor(AbstractDirac):
    """D itself, or that factor of it which is left to invert when the odd sites are eliminated."""

    hopping: eqx.AbstractVar[AbstractStencil]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.hopping.spinor_shape

    @property
    def dtype(self) -> Any:
        return self.hopping.dtype

    def gamma5(self, psi: Spinor) -> Spinor:
        return self.hopping.gamma5(psi)

    @abc.abstractmethod
    def log_abs_det_rest(self) -> Float[Array, ""]:
        """What log |det D| has besides log |det| of this factor."""

    @abc.abstractmethod
    def sign_rest(self) -> Float[Array, ""]:
        """What the sign of det D has besides that of this factor."""

    @abc.abstractmethod
    def prepare(self, b: Spinor) -> tuple[Spinor, Spinor]:
        """(right-hand side for this factor, what `reconstruct` needs) of a source b on the whole lattice."""

    @abc.abstractmethod
    def reconstruct(self, psi: Spinor, rest: Spinor) -> Spinor:
        """The solution of D x = b on the whole lattice from the solution `psi` of the factor's equation."""

    @abc.abstractmethod
    def couplings(self) -> list[Coupling]:
        """The entries of the matrix, O(size) of them."""

    def determinant_sign(self) -> Float[Array, ""]:
        """The sign of det D, +1 or -1, by dense LU of this factor."""
        return jnp.sign(jnp.real(jnp.linalg.slogdet(self.matrix())[0])) * self.sign_rest()


class Dirac(AbstractFactor):
    """D = A + H on the whole lattice, A the site term and H the hopping."""

    hopping: AbstractHopping
    site: AbstractSiteTerm

    def mv(self, psi: Spinor) -> Spinor:
        return self.site.apply(psi) + self.hopping.full(psi)

    def schur(self) -> Schur:
        """The even/odd complement. Raises ValueError for odd extents."""
        halves = self.hopping.halves()
        even, odd = self.site.split(halves.splitting)
        return Schur(halves, even, odd, odd.inverse())

    def preconditioned(self) -> Dirac | Schur:
        """The even/odd complement where it exists, D itself on odd extents."""
        return self if any(n % 2 for n in self.shape[2:]) else self.schur()

    def couplings(self) -> list[Coupling]:
        return full_couplings(self.hopping, self.site)

    def log_abs_det_rest(self) -> Float[Array, ""]:
        return jnp.zeros((), working_dtype())

    def sign_rest(self) -> Float[Array, ""]:
        return jnp.ones((), working_dtype())

    def prepare(self, b: Spinor) -> tuple[Spinor, Spinor]:
        return b, b

    def reconstruct(self, psi: Spinor, rest: Spinor) -> Spinor:
        return psi


class Schur(AbstractFactor):
    """D_sc = A_ee - H_eo A_oo^-1 H_oe on the even sites, so that det D = det A_oo det D_sc (Eqs. (33)-(34) of 2207.08945;
    T. A. DeGrand and P. Rossi, Comput. Phys. Commun. 60, 211). Spinors are of half the lattice, in the storage of `Halves`."""

    hopping: AbstractHalfHopping
    even: AbstractSiteTerm
    odd: AbstractSiteTerm
    odd_inverse: AbstractSiteTerm

    def mv(self, psi: Spinor) -> Spinor:
        there = self.odd_inverse.apply(self.hopping.onto(1, psi))
        return self.even.apply(psi) - self.hopping.onto(0, there)

    def matrix(self) -> Complex[Array, "size size"]:
        """The dense matrix, from its O(size) entries."""
        return dense_matrix(self.couplings(), self.hopping.splitting)

    def couplings(self) -> list[Coupling]:
        return complement_couplings(self.hopping, self.even, self.odd_inverse)

    def log_abs_det_rest(self) -> Float[Array, ""]:
        """log |det A_oo|."""
        return self.odd.log_abs_det()

    def sign_rest(self) -> Float[Array, ""]:
        """The sign of det A_oo."""
        return self.odd.sign()

    def prepare(self, b: Spinor) -> tuple[Spinor, Spinor]:
        """(b_e - H_eo A_oo^-1 b_o, b_o)."""
        even, odd = self.hopping.splitting.split(b)
        return even - self.hopping.onto(0, self.odd_inverse.apply(odd)), odd

    def reconstruct(self, psi: Spinor, rest: Spinor) -> Spinor:
        """`psi` on the even sites, x_o = A_oo^-1 (b_o - H_oe psi) on the odd ones."""
        odd = self.odd_inverse.apply(rest - self.hopping.onto(1, psi))
        return self.hopping.splitting.merge(psi, odd)
