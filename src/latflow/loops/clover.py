"""The clover: the four plaquettes of a plane around a site, and the field strength they average to."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Complex, Inexact

from latflow.groups import AbstractGroup
from latflow.lattice import Geometry, component, shift
from latflow.loops.loops import plaquette

Links = Inexact[Array, "..."]


def clover(group: AbstractGroup, geometry: Geometry, links: Links, mu: int, nu: int) -> Complex[Array, "..."]:
    """Sum of the four plaquettes of the mu-nu plane that start and end at x, all in the same sense, as matrices of
    `group.embed`, `(*colour, *lattice)`.

    A plaquette is carried one step by T_mu f(x) = U_mu(x-mu)^dagger f(x-mu) U_mu(x-mu), and the clover is
    (1 + T_mu) (1 + T_nu) P_{mu nu}. Raises ValueError if mu = nu.
    """
    Nd = geometry.Nd

    def carried(f: Links, direction: int) -> Links:
        u = component(links, direction, Nd)
        return shift(group.multiply(group.adjoint(u), group.multiply(f, u)), direction, Nd, -1)

    P = plaquette(group, geometry, links, mu, nu)
    Q = carried(P, nu)
    leaves = [group.embed(leaf) for leaf in (P, Q, carried(P, mu), carried(Q, mu))]
    return leaves[0] + leaves[1] + leaves[2] + leaves[3]


def field_strength(group: AbstractGroup, geometry: Geometry, links: Links, mu: int, nu: int) -> Inexact[Array, "..."]:
    """F_{mu nu}(x) in lattice units, P = exp(i F) to leading order: Hermitian and traceless `(Nc, Nc, *lattice)` for SU(N),
    real `(*lattice)` for U(1). Errors of order a^2."""
    C = clover(group, geometry, links, mu, nu)
    if not group.colour_shape:
        return jnp.imag(C) / 4
    return -group.trace_gradient(C) / 2
