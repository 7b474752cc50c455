"""Parallel transport convolutions of fields with colour, Eqs. (25)-(26) of 2207.08945, and the gauge-invariant context that
feeds their coefficients (App. B.2).

A field phi with K features is `(K, Nc, *lattice)` and transforms as phi(x) -> Omega(x) phi(x). Its stencil at y holds phi(y)
and the 2 Nd neighbours brought to y,

    L[U, phi](y) = { phi(y), U_0(y) phi(y+0), U_0(y-0)^dagger phi(y-0), U_1(y) phi(y+1), ... },

and a convolution sums it with complex coefficients that do not depend on phi: linear in phi, and gauge equivariant where the
coefficients are gauge invariant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact, PRNGKeyArray

from latflow.dirac import Boundary
from latflow.dirac.boundary import phases
from latflow.groups import AbstractGroup, RealLine
from latflow.lattice import Geometry, component, shift
from latflow.loops import plaquette
from latflow.nets.conv import ConvNet, PeriodicConv

Links = Inexact[Array, "..."]
Features = Float[Array, "_ ..."]
Coloured = Complex[Array, "K Nc ..."]
Coefficients = Complex[Array, "H stencil K ..."]


class ParallelTransport(eqx.Module):
    """L[U, .] of one configuration, Eq. (25), in any dimension: antiperiodic in time unless `boundary` gives other angles.

    `field` is an element field `(*colour, Nd, *lattice)`; the complex type of its embedding is that of fields phi. Raises
    ValueError for scalar fields and for a number of angles that is not that of directions.
    """

    links: Complex[Array, "Nc Nc Nd ..."]
    geometry: Geometry = eqx.field(static=True)

    def __init__(self, group: AbstractGroup, geometry: Geometry, field: Links, boundary: Boundary = None):
        if isinstance(group, RealLine):
            raise ValueError("parallel transport needs gauge links; a scalar field has none")
        matrices = group.embed(field)
        self.links = phases(boundary, geometry, matrices if group.colour_shape else matrices[None, None])
        self.geometry = geometry

    def neighbour(self, phi: Coloured, direction: int) -> Coloured:
        """U_mu(y) phi(y+mu) for `direction` 2 mu, U_mu(y-mu)^dagger phi(y-mu) for 2 mu + 1."""
        mu, Nd = direction // 2, self.geometry.Nd
        u = component(self.links, mu, Nd)
        if direction % 2:
            return shift((jnp.conj(u)[None] * phi[:, :, None]).sum(1), mu, Nd, -1)
        return (u[None] * shift(phi, mu, Nd)[:, None]).sum(2)

    def __call__(self, phi: Coloured) -> Complex[Array, "stencil K Nc ..."]:
        """The stencil `(2 Nd + 1, K, Nc, *lattice)`: the site itself, then the directions of `neighbour` in order."""
        return jnp.stack([phi, *(self.neighbour(phi, a) for a in range(2 * self.geometry.Nd))])


def mix(matrix: Complex[Array, "H K ..."], phi: Coloured) -> Complex[Array, "H Nc ..."]:
    """sum_k matrix[h, k](y) phi[k, c](y)."""
    return (matrix[:, :, None] * phi[None]).sum(1)


def ptc(transport: ParallelTransport, M: Coefficients, phi: Coloured) -> Complex[Array, "H Nc ..."]:
    """The parallel transport convolution, Eq. (26): sum over stencil and features of M `(H, 2 Nd + 1, K, *lattice)` times
    L[U, phi]. One term of the stencil after the other, so that L is never stored."""
    # phi is computed once: the compiler would fuse what it comes from into the terms of all directions
    phi = jax.lax.optimization_barrier(phi)
    out = mix(M[:, 0], phi)
    for direction in range(2 * transport.geometry.Nd):
        out = out + mix(M[:, direction + 1], transport.neighbour(phi, direction))
    return out


def ptcn(
    transport: ParallelTransport, coefficients: Sequence[Complex[Array, "..."]], phi: Coloured
) -> Complex[Array, "H Nc ..."]:
    """The parallel transport convolutional network: one `ptc` after the other, the first of `coefficients` first."""
    for M in coefficients:
        phi = ptc(transport, M, phi)
    return phi


class PlaquetteContext(eqx.Module):
    """The first part of the context function, shared by all layers and monomials: links -> `(channels, *lattice)`.

    Periodic convolutions with ELU after each, of Re Tr P / Nc and Im Tr P / Nc, summed over the planes mu < nu (2208.03832),
    and with `coordinates` of the constant inputs I_i = x_i mod 4 (Eq. (B3)), here rescaled to [-1, 1]. Without those it
    commutes with all translations, with them with those by multiples of four sites on extents that are multiples of four.
    Features have the real precision of the field. Raises ValueError for scalar fields and for one-dimensional lattices.
    """

    group: AbstractGroup
    geometry: Geometry = eqx.field(static=True)
    coordinates: bool = eqx.field(static=True)
    channels: int = eqx.field(static=True)
    net: ConvNet

    def __init__(
        self,
        group: AbstractGroup,
        geometry: Geometry,
        hidden: Sequence[int] = (16,),
        *,
        key: PRNGKeyArray,
        coordinates: bool = True,
        kernel_size: int = 3,
        activation: Callable = jax.nn.elu,
        gain: float = 0.5,
        bias_std: float = 0.0,
        dtype=jnp.float32,
    ):
        if isinstance(group, RealLine) or geometry.Nd < 2:
            raise ValueError(f"there are no plaquettes of {type(group).__name__} on the lattice {geometry.shape}")
        if not hidden:
            raise ValueError("a context needs at least one layer of hidden channels")
        self.group, self.geometry, self.coordinates = group, geometry, coordinates
        inputs, k1, k2 = 2 + (geometry.Nd if coordinates else 0), *jax.random.split(key)
        kernel = (kernel_size,) * geometry.Nd
        net = ConvNet(inputs, hidden, kernel, key=k1, activation=activation, gain=gain, dtype=dtype)
        convs, keys = [c for c in net.layers if isinstance(c, PeriodicConv)], jax.random.split(k2, len(net.layers))
        scattered = tuple(scattered_bias(c, bias_std, k) for c, k in zip(convs, keys, strict=True))
        self.net = eqx.tree_at(lambda n: n.layers, net, scattered)
        self.channels = hidden[-1]

    def inputs(self, field: Links) -> Features:
        """What the network reads, `(2, *lattice)` or `(2 + Nd, *lattice)`."""
        group, geometry = self.group, self.geometry
        loops = [group.embed(plaquette(group, geometry, field, mu, nu)) for mu, nu in geometry.planes]
        total = sum(_trace(P) if group.colour_shape else P for P in loops) / group.Nc
        out = jnp.stack([jnp.real(total), jnp.imag(total)])
        if self.coordinates:
            table = (geometry.coordinates() % 4 - 1.5) / 1.5
            out = jnp.concatenate([out, jnp.asarray(table, out.dtype)])
        return out

    def __call__(self, field: Links) -> Features:
        inputs = self.inputs(field)
        return self.net(inputs).astype(inputs.dtype)


def scattered_bias(conv: PeriodicConv, std: float, key: PRNGKeyArray) -> PeriodicConv:
    """The same convolution with normally distributed biases of standard deviation `std`."""
    if std == 0:
        return conv
    bias = std * jax.random.normal(key, (conv.weight.shape[0],), conv.weight.dtype)
    return eqx.tree_at(lambda c: c.bias, conv, bias)


def _trace(a: Complex[Array, "Nc Nc ..."]) -> Complex[Array, "..."]:
    unit = jnp.asarray(np.eye(a.shape[0]), a.dtype).reshape(*a.shape[:2], *[1] * (a.ndim - 2))
    return (a * unit).sum(1).sum(0)
