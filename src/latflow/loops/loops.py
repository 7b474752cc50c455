"""Closed loops of links, as element fields: `group.re_trace` of them is gauge invariant.

Links U_mu(x) lead from x to x+mu and have shape `(*colour, Nd, *lattice)`; every loop returned here starts and ends at its
site x, has shape `(*colour, *lattice)` and transforms as L(x) -> Omega(x) L(x) Omega(x)^dagger. For U(1) all of them are
angles, not reduced to [-pi, pi).
"""

from __future__ import annotations

import jax
from jaxtyping import Array, Inexact

from latflow.groups import AbstractGroup
from latflow.lattice import Geometry, component, shift

Links = Inexact[Array, "..."]
Loops = Inexact[Array, "..."]


def plaquette(group: AbstractGroup, geometry: Geometry, links: Links, mu: int, nu: int) -> Loops:
    """P_{mu nu}(x) = U_mu(x) U_nu(x+mu) U_mu(x+nu)^dagger U_nu(x)^dagger. Raises ValueError if mu = nu."""
    _require_plane(mu, nu)
    Nd = geometry.Nd
    u, v = component(links, mu, Nd), component(links, nu, Nd)
    there = group.multiply(u, shift(v, mu, Nd))
    back = group.multiply(v, shift(u, nu, Nd))
    return group.multiply(there, group.adjoint(back))


def transporter(group: AbstractGroup, geometry: Geometry, links: Links, mu: int, length: int) -> Loops:
    """The straight line U_mu(x) U_mu(x+mu) ... of `length` >= 1 links, by doubling (O(log length) products).

    Raises ValueError for a length below 1.
    """
    if length < 1:
        raise ValueError(f"a line of links needs a length of at least 1, got {length}")
    Nd = geometry.Nd
    power, reach = component(links, mu, Nd), 1
    line, done = None, 0
    while True:
        if length & reach:
            line = power if line is None else group.multiply(line, shift(power, mu, Nd, done))
            done += reach
        if done == length:
            return line  # type: ignore[return-value]
        power = group.multiply(power, shift(power, mu, Nd, reach))
        reach *= 2


def wilson_loop(group: AbstractGroup, geometry: Geometry, links: Links, R: int, T: int, mu: int, nu: int) -> Loops:
    """The R x T rectangle at every site: R links along mu, T along nu, then back; W(1, 1) = P_{mu nu}.

    Raises ValueError if mu = nu or if R or T is below 1. Loops larger than the lattice wind around it.
    """
    _require_plane(mu, nu)
    Nd = geometry.Nd
    u = transporter(group, geometry, links, mu, R)
    v = transporter(group, geometry, links, nu, T)
    there = group.multiply(u, shift(v, mu, Nd, R))
    back = group.multiply(v, shift(u, nu, Nd, T))
    return group.multiply(there, group.adjoint(back))


def polyakov_loop(group: AbstractGroup, geometry: Geometry, links: Links, direction: int = 0) -> Loops:
    """The product of all links of one line in `direction`, from coordinate 0 upwards.

    Shape `(*colour, *lattice without that direction)`; its trace is gauge invariant, its complex phase carries the centre.
    """
    axis = links.ndim - geometry.Nd + direction - 1
    line = component(links, direction, geometry.Nd)
    while (length := line.shape[axis]) > 1:
        pairs = length // 2
        even = jax.lax.slice_in_dim(line, 0, 2 * pairs, 2, axis)
        odd = jax.lax.slice_in_dim(line, 1, 2 * pairs, 2, axis)
        product = group.multiply(even, odd)
        if length % 2:
            product = jax.lax.concatenate([product, jax.lax.slice_in_dim(line, length - 1, length, 1, axis)], axis)
        line = product
    return jax.lax.index_in_dim(line, 0, axis, keepdims=False)


def _require_plane(mu: int, nu: int) -> None:
    if mu == nu:
        raise ValueError(f"a loop needs two different directions, got mu = nu = {mu}")
