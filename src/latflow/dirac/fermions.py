"""Fermions: what turns a configuration into its Dirac operator."""

from __future__ import annotations

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from latflow.dirac.boundary import Boundary, angles
from latflow.dirac.gamma import num_spins
from latflow.dirac.hopping import WilsonHopping
from latflow.dirac.operators import Dirac
from latflow.dirac.site_terms import CloverTerm, ScalarTerm, Unit
from latflow.dirac.staggered import StaggeredHopping
from latflow.groups import AbstractGroup, RealLine
from latflow.lattice import Geometry

Field = Inexact[Array, "..."]
Parameter = float | Float[Array, ""]


class AbstractFermion(eqx.Module):
    """A discretisation of fermions that couple to a field of `group` on `geometry`."""

    geometry: eqx.AbstractVar[Geometry]
    group: eqx.AbstractVar[AbstractGroup]

    @abc.abstractmethod
    def operator(self, field: Field) -> Dirac:
        """The Dirac operator of one configuration."""


class WilsonFermion(AbstractFermion):
    """Wilson fermions in the fundamental representation, Eq. (5) of 2207.08945,

        D psi(x) = A psi(x) - kappa sum_mu { (1-gamma_mu) U_mu(x) psi(x+mu) + (1+gamma_mu) U_mu(x-mu)^dagger psi(x-mu) },

    kappa = 1 / (2 Nd + 2 m0), in two and four dimensions, antiperiodic in time unless `boundary` gives other angles. A = 1, or
    with `csw` the clover term. `kappa` may be traced. Raises ValueError for other dimensions, for scalar fields, and for a
    number of angles that is not that of directions.
    """

    geometry: Geometry = eqx.field(static=True)
    group: AbstractGroup
    kappa: Parameter
    boundary: Boundary = eqx.field(static=True, default=None)
    csw: Parameter | None = None

    def __check_init__(self) -> None:
        num_spins(self.geometry.Nd)
        angles(self.boundary, self.geometry.Nd)
        if isinstance(self.group, RealLine):
            raise ValueError("Wilson fermions couple to gauge links; for a scalar field take WilsonYukawa")

    def operator(self, field: Field) -> Dirac:
        matrices = self.group.embed(field)
        matrices = matrices if self.group.colour_shape else matrices[None, None]
        hopping = WilsonHopping(self.geometry, matrices, self.kappa, self.boundary)
        if self.csw is None:
            return Dirac(hopping, Unit(hopping.kappa.dtype))
        return Dirac(hopping, CloverTerm.of(self.group, self.geometry, field, self.kappa, self.csw))


class WilsonYukawa(AbstractFermion):
    """Free Wilson fermions of mass m0 with a Yukawa coupling to a real scalar, in two or four dimensions:

        D psi(x) = [2 Nd + 2 m0 + 2 g phi(x)] kappa psi(x) - kappa sum_mu { ... },   kappa = 1 / (2 Nd + 2 m0),

    which is 2 kappa times gamma.d + m0 + g phi with a Wilson term."""

    geometry: Geometry = eqx.field(static=True)
    kappa: Parameter
    g: Parameter
    boundary: Boundary = eqx.field(static=True, default=None)
    group: RealLine = eqx.field(default=RealLine(), init=False)

    def __check_init__(self) -> None:
        num_spins(self.geometry.Nd)
        angles(self.boundary, self.geometry.Nd)

    def operator(self, field: Field) -> Dirac:
        Ns, Nd = num_spins(self.geometry.Nd), self.geometry.Nd
        unit = jnp.ones((1, 1, Nd, *self.geometry.shape), jnp.result_type(field.dtype, jnp.complex64))
        hopping = WilsonHopping(self.geometry, unit, self.kappa, self.boundary)
        coupling = jnp.asarray(2 * self.kappa * self.g, field.dtype)
        return Dirac(hopping, ScalarTerm(1 + coupling * field, Ns))


class StaggeredYukawa(AbstractFermion):
    """Staggered fermions of mass m with a Yukawa coupling to a real scalar (2106.05934): D = m + g phi(x) + H, H psi = (1/2)
    sum_mu eta_mu(x) [psi(x+mu) - psi(x-mu)], on lattices with even extents."""

    geometry: Geometry = eqx.field(static=True)
    mass: Parameter
    g: Parameter
    boundary: Boundary = eqx.field(static=True, default=None)
    group: RealLine = eqx.field(default=RealLine(), init=False)

    def __check_init__(self) -> None:
        self.geometry.require_even("a staggered fermion")
        angles(self.boundary, self.geometry.Nd)

    def operator(self, field: Field) -> Dirac:
        hopping = StaggeredHopping(self.geometry, self.boundary, jnp.result_type(field.dtype, jnp.complex64))
        mass, g = jnp.asarray(self.mass, field.dtype), jnp.asarray(self.g, field.dtype)
        return Dirac(hopping, ScalarTerm(mass + g * field, 1))
