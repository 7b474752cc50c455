"""Staples: what multiplies one link in the Wilson action, hence its force, heatbath and overrelaxation."""

from __future__ import annotations

from collections.abc import Iterator

import jax.numpy as jnp
from jaxtyping import Array, Complex, Inexact

from latflow.groups import AbstractGroup
from latflow.lattice import Geometry, component, shift

Links = Inexact[Array, "..."]


def staples(group: AbstractGroup, geometry: Geometry, links: Links, mu: int) -> Iterator[Links]:
    """The 2(Nd-1) staples around U_mu(x), one after the other, each an element field `(*colour, *lattice)`:

    for every nu != mu, U_nu(x+mu) U_mu(x+nu)^dagger U_nu(x)^dagger and U_nu(x+mu-nu)^dagger U_mu(x-nu)^dagger U_nu(x-nu), so
    that U_mu(x) times a staple is a closed plaquette at x.
    """
    Nd = geometry.Nd
    u = component(links, mu, Nd)
    for nu in (nu for nu in range(Nd) if nu != mu):
        v = component(links, nu, Nd)
        v_ahead = shift(v, mu, Nd)
        yield group.multiply(v_ahead, group.adjoint(group.multiply(v, shift(u, nu, Nd))))
        # built at x and moved once, rather than three shifts of its links
        yield shift(group.multiply(group.adjoint(group.multiply(u, v_ahead)), v), nu, Nd, -1)


def staple_sum(group: AbstractGroup, geometry: Geometry, links: Links, mu: int) -> Complex[Array, "..."]:
    """A_mu(x), the sum of the 2(Nd-1) `staples` around U_mu(x).

    The plaquettes containing U_mu(x) sum to Re Tr[U_mu(x) A_mu(x)] (U embedded as by `group.embed`). Always a complex
    matrix field of the embedding, `(*colour, *lattice)`: for U(1) the complex number sum exp(i staple angle), so that the
    plaquettes sum to |A| cos(theta_mu + arg A).
    """
    total = None
    for staple in staples(group, geometry, links, mu):
        matrix = group.embed(staple)
        total = matrix if total is None else total + matrix
    return jnp.zeros_like(group.embed(component(links, mu, geometry.Nd))) if total is None else total
