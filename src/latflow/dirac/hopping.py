"""The nearest-neighbour part of Dirac operators, on a whole lattice and between its halves."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Inexact

from latflow.dirac import gamma
from latflow.dirac.base import Spinor
from latflow.dirac.boundary import Boundary, phases
from latflow.lattice import Geometry, Halves, component, shift

Matrices = Complex[Array, "Nc Nc Nd ..."]


class AbstractStencil(eqx.Module):
    """What couples neighbours, and which spinors it acts on."""

    @property
    @abc.abstractmethod
    def spinor_shape(self) -> tuple[int, ...]:
        """Shape of a spinor, on the lattice or on one of its halves."""

    @property
    @abc.abstractmethod
    def dtype(self) -> Any:
        """Complex type of spinors."""

    @abc.abstractmethod
    def gamma5(self, psi: Spinor) -> Spinor:
        """gamma5 psi, on the whole lattice or on the even sites."""


class AbstractHopping(AbstractStencil):
    """H with D = A + H, A diagonal in the sites, on the whole lattice. H connects even sites with odd ones."""

    @abc.abstractmethod
    def full(self, psi: Spinor) -> Spinor:
        """H psi."""

    @abc.abstractmethod
    def blocks(self) -> Complex[Array, "directions n n ..."]:
        """H_a(x) for all sites x and the directions a = +0, -0, +1, ...: what the spinor at x + a contributes to that at x, as
        matrices of the index (spin, colour)."""

    @abc.abstractmethod
    def halves(self) -> AbstractHalfHopping:
        """The same between the halves of the lattice. Raises ValueError for odd extents."""


class AbstractHalfHopping(AbstractStencil):
    """The blocks H_eo and H_oe."""

    splitting: eqx.AbstractVar[Halves]

    @abc.abstractmethod
    def onto(self, parity: int, psi: Spinor) -> Spinor:
        """H psi on the sites of `parity`, of a spinor on the other ones."""

    @abc.abstractmethod
    def blocks(self, parity: int) -> Complex[Array, "directions n n ..."]:
        """H_a(x) for the sites x of `parity` and the directions a = +0, -0, +1, ...: what the spinor at x + a contributes to
        that at x, as matrices of the index (spin, colour)."""

    @abc.abstractmethod
    def vanishes(self, a: int, b: int) -> bool:
        """Whether H_a(x) H_b(x + a) = 0 whatever the links."""


class WilsonHopping(AbstractHopping):
    """H psi(x) = -kappa sum_mu { (1 - gamma_mu) U_mu(x) psi(x+mu) + (1 + gamma_mu) U_mu(x-mu)^dagger psi(x-mu) }, Eq. (5) of
    2207.08945. The boundary condition is a factor of the last links of each direction."""

    links: Matrices
    kappa: Inexact[Array, ""]
    geometry: Geometry = eqx.field(static=True)

    def __init__(self, geometry: Geometry, matrices: Matrices, kappa: Array | float, boundary: Boundary):
        self.links = phases(boundary, geometry, matrices)
        self.kappa = jnp.asarray(kappa, matrices.real.dtype)
        self.geometry = geometry

    @property
    def spinor_shape(self) -> tuple[int, ...]:
        return (gamma.num_spins(self.geometry.Nd), self.links.shape[0], *self.geometry.shape)

    @property
    def dtype(self) -> Any:
        return self.links.dtype

    def full(self, psi: Spinor) -> Spinor:
        Nd = self.geometry.Nd

        def ahead(field: Array, mu: int) -> Array:
            return shift(field, mu, Nd)

        def behind(field: Array, mu: int) -> Array:
            return shift(field, mu, Nd, -1)

        return _wilson(self.kappa, Nd, self.links, self.links, psi, ahead, behind)

    def blocks(self) -> Complex[Array, "directions n n ..."]:
        Nd = self.geometry.Nd
        return _wilson_blocks(self.kappa, Nd, self.links, self.links, lambda field, mu: shift(field, mu, Nd, -1))

    def halves(self) -> WilsonHalfHopping:
        splitting = Halves(self.geometry)
        even, odd = splitting.split(self.links)
        return WilsonHalfHopping(even=even, odd=odd, kappa=self.kappa, splitting=splitting)

    def gamma5(self, psi: Spinor) -> Spinor:
        return _chiral(self.geometry.Nd, psi)


class WilsonHalfHopping(AbstractHalfHopping):
    """`WilsonHopping` between the halves."""

    even: Matrices
    odd: Matrices
    kappa: Inexact[Array, ""]
    splitting: Halves = eqx.field(static=True)

    @property
    def spinor_shape(self) -> tuple[int, ...]:
        return (gamma.num_spins(self.splitting.geometry.Nd), self.even.shape[0], *self.splitting.shape)

    @property
    def dtype(self) -> Any:
        return self.even.dtype

    def onto(self, parity: int, psi: Spinor) -> Spinor:
        here, there = (self.odd, self.even) if parity else (self.even, self.odd)

        def ahead(field: Array, mu: int) -> Array:
            return self.splitting.shift(field, mu, parity, 1)

        def behind(field: Array, mu: int) -> Array:
            return self.splitting.shift(field, mu, parity, -1)

        return _wilson(self.kappa, self.splitting.geometry.Nd, here, there, psi, ahead, behind)

    def gamma5(self, psi: Spinor) -> Spinor:
        return _chiral(self.splitting.geometry.Nd, psi)

    def blocks(self, parity: int) -> Complex[Array, "directions n n ..."]:
        here, there = (self.odd, self.even) if parity else (self.even, self.odd)

        def behind(field: Array, mu: int) -> Array:
            return self.splitting.shift(field, mu, parity, -1)

        return _wilson_blocks(self.kappa, self.splitting.geometry.Nd, here, there, behind)

    def vanishes(self, a: int, b: int) -> bool:
        return a ^ 1 == b  # (1 - gamma)(1 + gamma) = 0


def _wilson(kappa: Array, Nd: int, here: Matrices, there: Matrices, psi: Spinor, ahead, behind) -> Spinor:
    """Half spinors are formed before they move and transported before they are spread out again."""
    # psi is computed once: the CPU compiler would fuse what it comes from (gamma5, say) into the loops of all directions
    up, down = jnp.split(jax.lax.optimization_barrier(psi), 2)
    upper: Any = None
    lower: Any = None
    for mu in range(Nd):
        turned = gamma.apply_block(mu, Nd, down)
        forward = _colour(component(here, mu, Nd), ahead(up - turned, mu))
        backward = behind(_colour(component(there, mu, Nd), up + turned, dagger=True), mu)
        high = forward + backward
        low = gamma.apply_block(mu, Nd, backward - forward, dagger=True)
        upper = high if upper is None else upper + high
        lower = low if lower is None else lower + low
    return -kappa * jnp.concatenate([upper, lower])


def _wilson_blocks(kappa: Array, Nd: int, here: Matrices, there: Matrices, behind) -> Complex[Array, "directions n n ..."]:
    n, out = gamma.num_spins(Nd) * here.shape[0], []
    for mu, g in enumerate(gamma.matrices(Nd)):
        back = jnp.conj(jnp.swapaxes(component(there, mu, Nd), 0, 1))
        for sign, links in ((1, component(here, mu, Nd)), (-1, behind(back, mu))):
            spin = jnp.asarray(np.eye(len(g)) - sign * g, links.dtype).reshape(len(g), 1, len(g), 1, *[1] * Nd)
            out.append((-kappa * spin * links[None, :, None]).reshape(n, n, *links.shape[2:]))
    return jnp.stack(out)


def _colour(u: Complex[Array, "Nc Nc ..."], h: Spinor, dagger: bool = False) -> Spinor:
    """U h, or U^dagger h, for half spinors `(spin, Nc, ...)`."""
    if dagger:
        return (jnp.conj(u)[None] * h[:, :, None]).sum(1)
    return (u[None] * h[:, None]).sum(2)


def _chiral(Nd: int, psi: Spinor) -> Spinor:
    up, down = jnp.split(psi, 2)
    return jnp.concatenate([up, -down])
