"""Staggered fermions: one component per site, gamma matrices replaced by signs (L. Susskind, Phys. Rev. D 16, 3031)."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex

from latflow.dirac.base import Spinor
from latflow.dirac.boundary import Boundary, phases
from latflow.dirac.hopping import AbstractHalfHopping, AbstractHopping
from latflow.lattice import Geometry, Halves, component, shift


class StaggeredHopping(AbstractHopping):
    """H psi(x) = (1/2) sum_mu eta_mu(x) [psi(x+mu) - psi(x-mu)] on spinors `(1, 1, *lattice)`, eta_mu = (-1)^(x_0 + ... +
    x_{mu-1}). H is anti-Hermitian; gamma5 is the sign (-1)^(x_0 + x_1 + ...). The boundary condition is a factor of the last
    links. Raises ValueError for odd extents, on which the signs do not close."""

    links: Complex[Array, "Nd ..."]
    geometry: Geometry = eqx.field(static=True)

    def __init__(self, geometry: Geometry, boundary: Boundary, dtype):
        geometry.require_even("a staggered fermion")
        x = geometry.coordinates()
        signs = np.stack([(-1.0) ** x[:mu].sum(0) for mu in range(geometry.Nd)])
        self.links = phases(boundary, geometry, jnp.asarray(signs / 2, dtype))
        self.geometry = geometry

    @property
    def spinor_shape(self) -> tuple[int, ...]:
        return (1, 1, *self.geometry.shape)

    @property
    def dtype(self) -> Any:
        return self.links.dtype

    def full(self, psi: Spinor) -> Spinor:
        Nd = self.geometry.Nd
        total = jnp.zeros_like(psi)
        for mu in range(Nd):
            u = component(self.links, mu, Nd)[None, None]
            total = total + u * shift(psi, mu, Nd) - shift(jnp.conj(u) * psi, mu, Nd, -1)
        return total

    def blocks(self) -> Complex[Array, "directions n n ..."]:
        Nd, out = self.geometry.Nd, []
        for mu in range(Nd):
            u = component(self.links, mu, Nd)
            out += [u, -shift(jnp.conj(u), mu, Nd, -1)]
        return jnp.stack(out)[:, None, None]

    def halves(self) -> StaggeredHalfHopping:
        splitting = Halves(self.geometry)
        even, odd = splitting.split(self.links)
        return StaggeredHalfHopping(even=even, odd=odd, splitting=splitting)

    def gamma5(self, psi: Spinor) -> Spinor:
        return psi * jnp.asarray((-1.0) ** self.geometry.parity(), psi.real.dtype)[None, None]


class StaggeredHalfHopping(AbstractHalfHopping):
    """`StaggeredHopping` between the halves."""

    even: Complex[Array, "Nd ..."]
    odd: Complex[Array, "Nd ..."]
    splitting: Halves = eqx.field(static=True)

    @property
    def spinor_shape(self) -> tuple[int, ...]:
        return (1, 1, *self.splitting.shape)

    @property
    def dtype(self) -> Any:
        return self.even.dtype

    def onto(self, parity: int, psi: Spinor) -> Spinor:
        here, there = (self.odd, self.even) if parity else (self.even, self.odd)
        Nd = self.splitting.geometry.Nd
        total = jnp.zeros_like(psi)
        for mu in range(Nd):
            u, v = (component(links, mu, Nd)[None, None] for links in (here, there))
            backward = self.splitting.shift(jnp.conj(v) * psi, mu, parity, -1)
            total = total + u * self.splitting.shift(psi, mu, parity, 1) - backward
        return total

    def gamma5(self, psi: Spinor) -> Spinor:
        return psi

    def blocks(self, parity: int) -> Complex[Array, "directions n n ..."]:
        here, there = (self.odd, self.even) if parity else (self.even, self.odd)
        Nd = self.splitting.geometry.Nd
        out = []
        for mu in range(Nd):
            back = jnp.conj(component(there, mu, Nd))
            out += [component(here, mu, Nd), -self.splitting.shift(back, mu, parity, -1)]
        return jnp.stack(out)[:, None, None]

    def vanishes(self, a: int, b: int) -> bool:
        return False
