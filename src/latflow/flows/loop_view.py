"""What a gauge-equivariant layer sees: the loop it transforms and the frozen loops that steer it.

For U(1) an active link theta closes 2(Nd-1) plaquette-like loops with angles a_k = theta + alpha_k, alpha_k the staples. One of
them, or their common direction a = arg sum_k exp(i a_k), is transformed (2003.06413; the learned projection of several loops
is 2502.00263), and the link follows: theta += a' - a. Differences a_k - a do not contain the link and are context, as are all
plaquettes without an active link. Every view is gauge invariant by construction.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from latflow.groups import U1, wrap
from latflow.lattice import AbstractMask, DiagonalMask, StridedMask, shift
from latflow.loops import plaquette

Loop = Literal["plaquette", "staples"]


class View(NamedTuple):
    """`angle` (*grid): transformed. `near` (channels, *grid): context of each active link. `far` (channels, *trunk grid):
    context for the convolutions."""

    angle: Float[Array, "..."]
    near: Float[Array, "near ..."]
    far: Float[Array, "far ..."]


def _plane(mask: AbstractMask, theta: Float[Array, "..."], nu: int) -> Float[Array, "..."]:
    """Plaquette angles in the (orientation, nu) plane, oriented so that the active link enters with a plus sign."""
    return plaquette(U1(), mask.geometry, theta, mask.orientation, nu)


def _cos_sin(angles: Float[Array, "n ..."]) -> Float[Array, "m ..."]:
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])


def _relative(loops: Float[Array, "n ..."], loop: Loop) -> tuple[Float[Array, "..."], Float[Array, "m ..."]]:
    """The transformed angle, and the loops through the same link relative to it."""
    if loop == "plaquette":
        return loops[0], _cos_sin(loops[1:] - loops[:1])
    re, im = jnp.cos(loops).sum(0), jnp.sin(loops).sum(0)
    angle = jnp.arctan2(im, re)
    relative = loops - angle[None]
    strength = jnp.cos(relative).mean(0, keepdims=True)  # |sum of staples| over their number
    return angle, jnp.concatenate([_cos_sin(relative), strength])


@dataclasses.dataclass(frozen=True)
class StripeView:
    """Two dimensions, stripes of width w: the rows of a stripe become channels of the compact grid of active links."""

    mask: StridedMask
    loop: Loop = "staples"

    @property
    def near_channels(self) -> int:
        return 2 if self.loop == "plaquette" else 5

    @property
    def far_channels(self) -> int:
        return 2 * (self.mask.num_phases - 1)

    def __call__(self, theta: Float[Array, "..."]) -> View:
        mask, axis = self.mask, self.mask.compact_axis
        width = mask.num_phases
        p = _plane(mask, theta, axis)
        grid = mask.grid
        blocks = p.reshape(*grid[: axis + 1], width, *grid[axis + 1 :])
        rows = jnp.moveaxis(blocks, axis + 1, 0)  # row 0 is active, row width - 1 of the block before is passive
        passive = jnp.roll(rows[-1], 1, axis)
        # The two plaquettes on either side of an active link make one 2 x 1 loop that does not contain it.
        far = _cos_sin(jnp.concatenate([(rows[0] + passive)[None], rows[1:-1]]))
        angle, near = _relative(jnp.stack([rows[0], -passive]), self.loop)
        return View(angle, near, far)

    def to_active(self, features: Float[Array, "channels ..."]) -> Float[Array, "channels ..."]:
        return features


@dataclasses.dataclass(frozen=True)
class DiagonalView:
    """Any dimension: all frozen plaquettes on the full lattice, and the loops through each active link."""

    mask: DiagonalMask
    loop: Loop = "staples"

    @property
    def near_channels(self) -> int:
        loops = 2 * (self.mask.geometry.Nd - 1)
        return 2 * (loops - 1) if self.loop == "plaquette" else 2 * loops + 1

    @property
    def far_channels(self) -> int:
        return 2 * len(self.mask.geometry.planes)

    def __call__(self, theta: Float[Array, "..."]) -> View:
        mask, geometry = self.mask, self.mask.geometry
        Nd, mu = geometry.Nd, mask.orientation
        frozen = mask.frozen_plaquettes()
        loops, far = [], []
        for nu in range(Nd):
            if nu != mu:
                p = _plane(mask, theta, nu)
                loops += [mask.compact(p), -mask.compact(shift(p, nu, Nd, -1))]
        for weight, (rho, sigma) in zip(frozen.astype(np.dtype(theta.dtype)), geometry.planes, strict=True):
            p = plaquette(U1(), geometry, theta, rho, sigma)
            far += [jnp.cos(p) * weight, jnp.sin(p) * weight]
        angle, near = _relative(jnp.stack(loops), self.loop)
        return View(angle, near, jnp.stack(far))

    def to_active(self, features: Float[Array, "channels ..."]) -> Float[Array, "channels ..."]:
        return self.mask.compact(features)


@dataclasses.dataclass(frozen=True)
class BlockView:
    """One bisection of `coarse_to_fine`: blocks of plaquettes with flux s are cut into halves of flux a and s - a.

    The angle seen is a - s/2 with s in [-pi, pi): the density of a given s is symmetric about it (the halves are equal), so the
    transformation is odd and needs only the C-even context cos(s/2), cos(s), cos(2s). In two dimensions the flux of a block is
    independent of everything outside it but its total, so this context is complete for the pure gauge theory.
    """

    mask: StridedMask
    block: tuple[int, int]

    near_channels: int = 3
    far_channels: int = 0

    def __call__(self, theta: Float[Array, "..."]) -> View:
        mask = self.mask
        nu = 1 - mask.orientation
        half = tuple(b // 2 if i == nu else b for i, b in enumerate(self.block))
        p = wrap(_plane(mask, theta, nu))
        n0, n1 = (n // h for n, h in zip(mask.geometry.shape, half, strict=True))
        flux = p.reshape(n0, half[0], n1, half[1]).sum((1, 3))
        pairs = jnp.moveaxis(flux.reshape((n0 // 2, 2, n1) if nu == 0 else (n0, n1 // 2, 2)), 1 if nu == 0 else 2, 0)
        # The active link enters the upper half of the block, pairs[1], with a plus sign.
        s = wrap(pairs[0] + pairs[1])
        near = jnp.stack([jnp.cos(s / 2), jnp.cos(s), jnp.cos(2 * s)])
        return View(wrap(pairs[1]) - s / 2, near, near[:0])

    def to_active(self, features: Float[Array, "channels ..."]) -> Float[Array, "channels ..."]:
        return features
