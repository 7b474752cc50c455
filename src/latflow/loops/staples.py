"""Staples: what multiplies one link in the Wilson action, hence its force, heatbath and overrelaxation."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Complex, Inexact

from latflow.groups import AbstractGroup
from latflow.lattice import Geometry, component, shift


def staple_sum(group: AbstractGroup, geometry: Geometry, links: Inexact[Array, "..."], mu: int) -> Complex[Array, "..."]:
    """A_mu(x), the sum of the 2(Nd-1) staples around U_mu(x):

    sum_{nu != mu} [ U_nu(x+mu) U_mu(x+nu)^dagger U_nu(x)^dagger + U_nu(x+mu-nu)^dagger U_mu(x-nu)^dagger U_nu(x-nu) ],

    so that the plaquettes containing U_mu(x) sum to Re Tr[U_mu(x) A_mu(x)] (U embedded as by `group.embed`). Always a complex
    matrix field of the embedding, `(*colour, *lattice)`: for U(1) the complex number sum exp(i staple angle), so that the
    plaquettes sum to |A| cos(theta_mu + arg A).
    """
    Nd = geometry.Nd
    u = component(links, mu, Nd)
    total = None
    for nu in (nu for nu in range(Nd) if nu != mu):
        v = component(links, nu, Nd)
        v_ahead = shift(v, mu, Nd)
        upper = group.multiply(v_ahead, group.adjoint(group.multiply(v, shift(u, nu, Nd))))
        # built at x and moved once, rather than three shifts of its links
        lower = shift(group.multiply(group.adjoint(group.multiply(u, v_ahead)), v), nu, Nd, -1)
        pair = group.embed(upper) + group.embed(lower)
        total = pair if total is None else total + pair
    return jnp.zeros_like(group.embed(u)) if total is None else total
