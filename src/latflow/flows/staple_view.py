"""What a layer of SU(N) links sees: staples that close its active links to loops, and frozen loops.

A staple of the active link U_mu(x) is a matrix S that leads from x + mu back to x without using any active link, so that U S is
a closed loop at x and, for two staples, S_i^dagger S_j one that does not contain the link. Gauge transformations turn U S into
Omega(x) U S Omega(x)^dagger. To leave out every path through an active link, active links are set to zero before paths are
multiplied: such paths vanish by themselves.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from latflow.groups import SUN
from latflow.groups.exponential import trace_product
from latflow.groups.polar import polar
from latflow.lattice import AbstractMask, StridedMask, component, shift
from latflow.loops import plaquette, staple_sum, staples, transporter

Links = Complex[Array, "..."]


class View(NamedTuple):
    """`staples` (Nc, Nc, n, *grid) of the active links; `far` (channels, *lattice): traces of frozen loops."""

    staples: Complex[Array, "..."]
    far: Float[Array, "..."]


def frozen_links(mask: AbstractMask, links: Links) -> Links:
    """The links, zero where active."""
    keep = 1 - mask.links().astype(np.dtype(jnp.finfo(links.dtype).dtype))
    return links * jnp.asarray(keep)[(None,) * (links.ndim - keep.ndim)]


@dataclasses.dataclass(frozen=True)
class PlaquetteStaples:
    """The 2(Nd-1) staples of the plaquettes through each active link, in any dimension; `far` holds the traces of all frozen
    plaquettes."""

    mask: AbstractMask
    group: SUN

    @property
    def num_staples(self) -> int:
        return 2 * (self.mask.geometry.Nd - 1)

    @property
    def far_channels(self) -> int:
        return len(self.mask.geometry.planes) * _parts(self.group)

    def __call__(self, links: Links) -> View:
        mask, group, geometry = self.mask, self.group, self.mask.geometry
        frozen = frozen_links(mask, links)
        far = []
        for mu, nu in geometry.planes:
            far += trace_parts(group, plaquette(group, geometry, frozen, mu, nu))
        return View(_compact_staples(mask, group, frozen), jnp.stack(far))


@dataclasses.dataclass(frozen=True)
class ConvolutedStaples:
    """`PlaquetteStaples`, then the same staples made of links V^(r) smeared from frozen ones in `rounds` rounds,

        V^(r) = unitary polar factor of V^(r-1) + eta_r (sum of staples of V^(r-1))^dagger,   eta_r > 0,

    zero-initialised active links included, so that loops of growing size enter (2305.02402, there without the projection, which
    for SU(3) at beta 6 halves the part of the action's fluctuations that the loops do not describe, see docs/results.md). The
    norm of every staple is at most one. `eta` is given to the call."""

    mask: AbstractMask
    group: SUN
    rounds: int

    @property
    def num_staples(self) -> int:
        return 2 * (self.mask.geometry.Nd - 1) * (1 + self.rounds)

    @property
    def far_channels(self) -> int:
        return len(self.mask.geometry.planes) * _parts(self.group)

    def __call__(self, links: Links, eta: Float[Array, " rounds"]) -> View:
        mask, group, geometry = self.mask, self.group, self.mask.geometry
        plain = PlaquetteStaples(mask, group)(links)
        v, found = frozen_links(mask, links), [plain.staples]
        for r in range(self.rounds):
            smeared = [
                component(v, mu, geometry.Nd) + eta[r] * group.adjoint(staple_sum(group, geometry, v, mu))
                for mu in range(geometry.Nd)
            ]
            v = polar(jnp.stack(smeared, axis=2))
            found.append(_compact_staples(mask, group, v))
        return View(jnp.concatenate(found, axis=2), plain.far)


@dataclasses.dataclass(frozen=True)
class BlockStaples:
    """One bisection of `coarse_to_fine`: a block of plaquettes is cut into two halves along a line of links that begins
    with the
    active one. Its two staples close the boundaries of the upper and of the lower half; S_0^dagger S_1 is the boundary of the
    whole block. In two dimensions nothing else bears on how the halves share the block, so there are no far loops."""

    mask: StridedMask
    group: SUN
    block: tuple[int, int]

    num_staples: int = 2
    far_channels: int = 0

    def __call__(self, links: Links) -> View:
        mask, group, geometry = self.mask, self.group, self.mask.geometry
        mu = mask.orientation
        nu, R = 1 - mu, self.block[mu]
        T = self.block[nu] // 2
        v = transporter(group, geometry, links, nu, T)
        line = transporter(group, geometry, links, mu, R)
        # the rest of the cut behind its first link, starting at x + mu
        cut = shift(transporter(group, geometry, links, mu, R - 1), mu, 2) if R > 1 else None
        far_side, down = shift(v, mu, 2, R), shift(v, nu, 2, -T)
        upper = group.multiply(far_side, group.adjoint(group.multiply(v, shift(line, nu, 2, T))))
        lower = group.multiply(group.adjoint(group.multiply(shift(line, nu, 2, -T), shift(far_side, nu, 2, -T))), down)
        both = [mask.compact(s if cut is None else group.multiply(cut, s)) for s in (upper, lower)]
        return View(jnp.stack(both, axis=2), jnp.zeros((0, *geometry.shape), both[0].real.dtype))


def _compact_staples(mask: AbstractMask, group: SUN, links: Links) -> Links:
    return jnp.stack([mask.compact(s) for s in staples(group, mask.geometry, links, mask.orientation)], axis=2)


def _parts(group: SUN) -> int:
    return 1 if group.Nc == 2 else 2


def trace_parts(group: SUN, loops: Complex[Array, "..."]) -> list[Any]:
    """[Re tr / Nc, Im tr / Nc] of loops (Nc, Nc, ...); the imaginary part is zero for SU(2) and left out."""
    return _parts_of(group, sum(loops[i, i] for i in range(group.Nc)))


def _parts_of(group: SUN, trace: Any) -> list[Any]:
    mean = trace / group.Nc
    return [mean.real] if group.Nc == 2 else [mean.real, mean.imag]


def invariants(group: SUN, loops: Complex[Array, "Nc Nc n ..."]) -> Float[Array, "channels ..."]:
    """Traces of n closed loops and of their squares, as channels."""
    trace = sum(loops[i, i] for i in range(group.Nc))
    return jnp.concatenate(_parts_of(group, trace) + _parts_of(group, trace_product(loops, loops)))


def num_invariants(group: SUN, loops: int) -> int:
    return 2 * _parts(group) * loops
