"""Dirac operators D = A + H, and their Schur complements on the even sites."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Complex, Float

from latflow.dirac.assembly import dense_complement
from latflow.dirac.base import AbstractDirac, Spinor
from latflow.dirac.hopping import AbstractHalfHopping, AbstractHopping
from latflow.dirac.site_terms import AbstractSiteTerm


class Dirac(AbstractDirac):
    """D = A + H on the whole lattice, A the site term and H the hopping."""

    hopping: AbstractHopping
    site: AbstractSiteTerm

    @property
    def shape(self) -> tuple[int, ...]:
        return self.hopping.spinor_shape

    @property
    def dtype(self) -> Any:
        return self.hopping.dtype

    def mv(self, psi: Spinor) -> Spinor:
        return self.site.apply(psi) + self.hopping.full(psi)

    def gamma5(self, psi: Spinor) -> Spinor:
        return self.hopping.gamma5(psi)

    def schur(self) -> Schur:
        """The even/odd complement. Raises ValueError for odd extents."""
        halves = self.hopping.halves()
        even, odd = self.site.split(halves.splitting)
        return Schur(halves, even, odd, odd.inverse())


class Schur(AbstractDirac):
    """D_sc = A_ee - H_eo A_oo^-1 H_oe on the even sites, so that det D = det A_oo det D_sc (Eqs. (33)-(34) of 2207.08945;
    T. A. DeGrand and P. Rossi, Comput. Phys. Commun. 60, 211). Spinors are of half the lattice, in the storage of `Halves`."""

    hopping: AbstractHalfHopping
    even: AbstractSiteTerm
    odd: AbstractSiteTerm
    odd_inverse: AbstractSiteTerm

    @property
    def shape(self) -> tuple[int, ...]:
        return self.hopping.spinor_shape

    @property
    def dtype(self) -> Any:
        return self.hopping.dtype

    def mv(self, psi: Spinor) -> Spinor:
        there = self.odd_inverse.apply(self.hopping.onto(1, psi))
        return self.even.apply(psi) - self.hopping.onto(0, there)

    def gamma5(self, psi: Spinor) -> Spinor:
        return self.hopping.gamma5(psi)

    def matrix(self) -> Complex[Array, "size size"]:
        """The dense matrix, from its O(size) entries."""
        return dense_complement(self.hopping, self.even, self.odd_inverse)

    def log_abs_det_rest(self) -> Float[Array, ""]:
        """log |det A_oo|, what log |det D| has besides log |det D_sc|."""
        return self.odd.log_abs_det()

    def sign_rest(self) -> Float[Array, ""]:
        """The sign of det A_oo."""
        return self.odd.sign()

    def prepare(self, b: Spinor) -> tuple[Spinor, Spinor]:
        """(b_e - H_eo A_oo^-1 b_o, b_o) of a source b on the whole lattice: the right-hand side for D_sc, and what
        `reconstruct` needs."""
        even, odd = self.hopping.splitting.split(b)
        return even - self.hopping.onto(0, self.odd_inverse.apply(odd)), odd

    def reconstruct(self, psi: Spinor, odd_source: Spinor) -> Spinor:
        """The solution of D x = b on the whole lattice from its even part `psi`: x_o = A_oo^-1 (b_o - H_oe psi)."""
        odd = self.odd_inverse.apply(odd_source - self.hopping.onto(1, psi))
        return self.hopping.splitting.merge(psi, odd)
