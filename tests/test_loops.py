"""Loops against link-by-link products, gauge covariance, and the abelian configuration of constant flux."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts import close, compiled, cut, gauge_transform, pool

from latflow.groups import SUN, U1
from latflow.lattice import Geometry
from latflow.loops import plaquette, polyakov_loop, staple_sum, transporter, wilson_loop

GEOMETRY = Geometry((3, 4, 5))
GROUPS = [U1(), SUN(3)]


def links_of(group, seed=0):
    return cut(group, pool(group, seed)[0], (3, *GEOMETRY.shape))


def matrices(group, elements):
    """Numpy matrices with the colour axes last, 1 x 1 for U(1)."""
    field = np.asarray(group.embed(elements))
    return np.moveaxis(field, (0, 1), (-2, -1)) if group.colour_shape else field[..., None, None]


def path(links, site, steps):
    """Product of link matrices `(Nd, *lattice, Nc, Nc)` along `steps`, entries mu+1 forward or -(mu+1) backward."""
    total, site = np.eye(links.shape[-1]), list(site)
    for step in steps:
        mu = abs(step) - 1
        site[mu] = (site[mu] - (step < 0)) % GEOMETRY.shape[mu]
        link = links[(mu, *site)]
        total = total @ (link if step > 0 else link.conj().T)
        site[mu] = (site[mu] + (step > 0)) % GEOMETRY.shape[mu]
    return total, tuple(site)


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_loops_are_ordered_products_of_links(group):
    U, site = links_of(group), (2, 3, 1)
    u = matrices(group, U)

    @jax.jit
    def loops(links):
        return {
            (1, 2, -1, -2): plaquette(group, GEOMETRY, links, 0, 1),
            (3, 1, -3, -1): plaquette(group, GEOMETRY, links, 2, 0),
            (2, 3, -2, -3): wilson_loop(group, GEOMETRY, links, 1, 1, 1, 2),
            (3,) * 3 + (1,) * 2 + (-3,) * 3 + (-1,) * 2: wilson_loop(group, GEOMETRY, links, 3, 2, 2, 0),
            (2,): transporter(group, GEOMETRY, links, 1, 1),
            (1,) * 4: transporter(group, GEOMETRY, links, 0, 4),
            (2,) * 7: transporter(group, GEOMETRY, links, 1, 7),
        }

    for steps, loop in loops(U).items():
        expected, end = path(u, site, steps)
        assert loop.shape == (*group.colour_shape, *GEOMETRY.shape)
        assert end == site or len(set(steps)) == 1
        close(matrices(group, loop)[site], expected)


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_polyakov_loops_are_products_around_the_lattice(group):
    U, site = links_of(group), (2, 3, 1)
    for direction, extent in enumerate(GEOMETRY.shape):
        others = [mu for mu in range(3) if mu != direction]
        expected, _ = path(
            matrices(group, U), [0 if mu == direction else site[mu] for mu in range(3)], [direction + 1] * extent
        )
        loop = jax.jit(polyakov_loop, static_argnums=(0, 1, 3))(group, GEOMETRY, U, direction)
        assert loop.shape == (*group.colour_shape, *(GEOMETRY.shape[mu] for mu in others))
        close(matrices(group, loop)[tuple(site[mu] for mu in others)], expected)


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_gauge_covariance(group):
    U, omega = links_of(group), cut(group, pool(group, 1)[0], GEOMETRY.shape)
    turned = jax.jit(gauge_transform, static_argnums=(0, 3))(group, U, omega, 3)

    @jax.jit
    def loops(links):
        local = [
            plaquette(group, GEOMETRY, links, 0, 2),
            wilson_loop(group, GEOMETRY, links, 2, 3, 1, 2),
            wilson_loop(group, GEOMETRY, links, 4, 1, 0, 1),  # longer than the lattice: it winds
        ]
        return local, [group.re_trace(polyakov_loop(group, GEOMETRY, links, mu)) for mu in range(3)]

    (before, traces), (after, turned_traces) = loops(U), loops(turned)
    g = matrices(group, omega)
    for old, new in zip(before, after, strict=True):
        close(matrices(group, new), g @ matrices(group, old) @ g.conj().swapaxes(-1, -2))
    for old, new in zip(traces, turned_traces, strict=True):
        close(new, old)


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_staples_collect_the_plaquettes_of_a_link(group):
    """Changing one link changes the sum of all plaquettes by Re Tr (U' - U) A."""
    U, site = links_of(group), (1, 0, 4)
    new = pool(group, 1)[0][..., 0]

    @jax.jit
    def total(links):
        return sum(jnp.sum(group.re_trace(plaquette(group, GEOMETRY, links, mu, nu))) for mu, nu in GEOMETRY.planes)

    for mu in range(3):
        staples = jax.jit(staple_sum, static_argnums=(0, 1, 3))(group, GEOMETRY, U, mu)
        assert staples.shape == (*group.colour_shape, *GEOMETRY.shape) and jnp.iscomplexobj(staples)
        staple = np.asarray(staples[(..., *site)]).reshape(group.Nc, group.Nc)
        difference = (matrices(group, new) - matrices(group, U)[(mu, *site)]) @ staple
        close(np.trace(difference).real, total(U.at[(..., mu, *site)].set(new)) - total(U))


def test_constant_flux():
    """Uniform field strength 2 pi Q / V on the torus: W(R, T) = exp(i R T flux) at every site."""
    geometry, charge = Geometry((6, 4)), 3
    flux = 2 * np.pi * charge / geometry.volume
    x = geometry.coordinates()
    theta = jnp.asarray(np.stack([np.where(x[0] == 5, -flux * 6 * x[1], 0.0), flux * x[0]]))
    for R, T in [(1, 1), (2, 3), (5, 4), (7, 2)]:
        for (mu, nu), sign in {(0, 1): 1, (1, 0): -1}.items():
            loop = wilson_loop(U1(), geometry, theta, R, T, mu, nu)
            close(jnp.exp(1j * loop), np.full(geometry.shape, np.exp(1j * sign * R * T * flux)))
    angles = np.asarray(plaquette(U1(), geometry, theta, 0, 1))
    close(np.angle(np.exp(1j * angles)).sum() / (2 * np.pi), charge)


def test_one_dimensional_lattice_has_no_staples():
    geometry, group = Geometry((4,)), SUN(2)
    U = cut(group, pool(group, 0)[0], (1, 4))
    close(staple_sum(group, geometry, U, 0), np.zeros((2, 2, 4)), 0)
    line = compiled(group).multiply
    close(polyakov_loop(group, geometry, U), line(line(U[..., 0, 0], U[..., 0, 1]), line(U[..., 0, 2], U[..., 0, 3])))


def test_impossible_loops_are_refused():
    U = links_of(U1())
    with pytest.raises(ValueError, match="two different directions"):
        plaquette(U1(), GEOMETRY, U, 1, 1)
    with pytest.raises(ValueError, match="two different directions"):
        wilson_loop(U1(), GEOMETRY, U, 1, 1, 0, 0)
    with pytest.raises(ValueError, match="at least 1"):
        wilson_loop(U1(), GEOMETRY, U, 0, 1, 0, 1)
    with pytest.raises(ValueError, match="direction 3 does not exist"):
        plaquette(U1(), GEOMETRY, U, 0, 3)
