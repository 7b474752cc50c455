"""Coupling masks: which links a layer moves (active), which loops it may look at (frozen), which it disturbs (passive).

A layer moves links of one direction `orientation` on a regular subset of sites. Its Jacobian is triangular when no loop in
its context contains an active link and no plaquette contains two of them. Masks are described at phase 0; the other phases
are the same mask after a translation by `phase` steps along `compact_axis`, which lets one compiled layer serve all of them.

Two families:

* `StridedMask`: x = offset modulo stride in every direction. In two dimensions stride (1, w) across the links is the stripe
  pattern of 2003.06413; strides growing in powers of two give the coarse-to-fine masks of `coarse_to_fine`.
* `DiagonalMask`: sum_nu shifts[nu] x_nu = 0 modulo width, the family used in four dimensions by 2208.03832 and 2305.02402
  (orientation, width, phase, shifts).
"""

from __future__ import annotations

import abc
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from latflow.lattice.geometry import Geometry


class AbstractMask(abc.ABC):
    """A static, hashable subset of the links of direction `orientation`, with a compact array `grid` of its members."""

    geometry: Geometry
    orientation: int

    @property
    @abc.abstractmethod
    def grid(self) -> tuple[int, ...]:
        """Shape of the compact array of active links."""

    @property
    @abc.abstractmethod
    def compact_axis(self) -> int:
        """Direction along which a translation by one step gives the next phase."""

    @property
    @abc.abstractmethod
    def num_phases(self) -> int:
        """Translations along `compact_axis` after which every link of this direction has been active."""

    @abc.abstractmethod
    def sites(self) -> np.ndarray:
        """Boolean array of the lattice shape: sites whose link in direction `orientation` is active at phase 0."""

    @abc.abstractmethod
    def compact(self, field: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        """Values at active sites: (..., *lattice) -> (..., *grid)."""

    @abc.abstractmethod
    def expand(self, values: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        """Inverse of `compact`, zero elsewhere: (..., *grid) -> (..., *lattice)."""

    def links(self, phase: int = 0) -> np.ndarray:
        """Boolean array (Nd, *lattice) of the active links."""
        out = np.zeros((self.geometry.Nd, *self.geometry.shape), bool)
        out[self.orientation] = np.roll(self.sites(), phase, axis=self.compact_axis)
        return out

    def frozen_plaquettes(self) -> np.ndarray:
        """Boolean array (number of planes, *lattice): plaquettes without any active link, at phase 0."""
        return touched_plaquettes(self.geometry, self.links()) == 0


def touched_plaquettes(geometry: Geometry, links: np.ndarray) -> np.ndarray:
    """Integer array (number of planes, *lattice): how many of the given links each plaquette contains."""
    count = []
    for mu, nu in geometry.planes:
        active_mu, active_nu = links[mu].astype(int), links[nu].astype(int)
        count.append(active_mu + np.roll(active_nu, -1, mu) + np.roll(active_mu, -1, nu) + active_nu)
    return np.stack(count)


@dataclasses.dataclass(frozen=True)
class StridedMask(AbstractMask):
    """Active where x_nu = offset_nu modulo stride_nu for every nu. Strides must divide the extents."""

    geometry: Geometry
    orientation: int
    stride: tuple[int, ...]
    offset: tuple[int, ...]

    def __post_init__(self) -> None:
        for extent, stride in zip(self.geometry.shape, self.stride, strict=True):
            if stride < 1 or extent % stride:
                raise ValueError(
                    f"a mask of stride {self.stride} does not fit the lattice {self.geometry.shape}: "
                    f"the extent {extent} must be a multiple of {stride}"
                )

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(n // s for n, s in zip(self.geometry.shape, self.stride, strict=True))

    @property
    def compact_axis(self) -> int:
        return int(np.argmax(self.stride))

    @property
    def num_phases(self) -> int:
        return self.stride[self.compact_axis]

    def sites(self) -> np.ndarray:
        x = self.geometry.coordinates()
        return np.all([x[nu] % s == o % s for nu, (s, o) in enumerate(zip(self.stride, self.offset, strict=True))], axis=0)

    def _index(self) -> tuple:
        return (..., *(slice(o % s, None, s) for s, o in zip(self.stride, self.offset, strict=True)))

    def compact(self, field: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        return field[self._index()]

    def expand(self, values: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        # Interior padding, because a scatter is slow on every backend.
        lead = values.ndim - self.geometry.Nd
        holes = [(o % s, s - 1 - o % s, s - 1) for s, o in zip(self.stride, self.offset, strict=True)]
        return jax.lax.pad(values, jnp.zeros((), values.dtype), [(0, 0, 0)] * lead + holes)


@dataclasses.dataclass(frozen=True)
class DiagonalMask(AbstractMask):
    """Active where sum_nu shifts[nu] x_nu = 0 modulo width.

    Every shift except that of `orientation` must be nonzero modulo the width (so that no plaquette holds two active links),
    at least one must be 1, and shifts[nu] * extent[nu] must be a multiple of the width (so that the pattern closes).
    """

    geometry: Geometry
    orientation: int
    width: int
    shifts: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.shifts) != self.geometry.Nd:
            raise ValueError(f"need {self.geometry.Nd} mask shifts, got {self.shifts}")
        for nu, (extent, s) in enumerate(zip(self.geometry.shape, self.shifts, strict=True)):
            if nu != self.orientation and s % self.width == 0:
                raise ValueError(
                    f"mask shift {s} in direction {nu} is 0 modulo the width {self.width}: "
                    "plaquettes would hold two active links"
                )
            if (s * extent) % self.width:
                raise ValueError(
                    f"the mask of width {self.width} and shifts {self.shifts} does not close on the lattice "
                    f"{self.geometry.shape}: "
                    f"make the extent {extent} of direction {nu} a multiple of {self.width // math.gcd(s, self.width)}"
                )
        if not self._unit_axes():
            raise ValueError(
                f"one of the mask shifts {self.shifts} must be 1 in a direction whose extent is a multiple of {self.width}"
            )

    def _unit_axes(self) -> list[int]:
        return [
            nu
            for nu, (n, s) in enumerate(zip(self.geometry.shape, self.shifts, strict=True))
            if s % self.width == 1 % self.width and n % self.width == 0
        ]

    @property
    def compact_axis(self) -> int:
        return self._unit_axes()[-1]

    @property
    def num_phases(self) -> int:
        return self.width

    @property
    def grid(self) -> tuple[int, ...]:
        axis = self.compact_axis
        return tuple(n // self.width if nu == axis else n for nu, n in enumerate(self.geometry.shape))

    def sites(self) -> np.ndarray:
        x = self.geometry.coordinates()
        return np.tensordot(np.array(self.shifts), x, 1) % self.width == 0

    def _blocked(self) -> tuple[np.ndarray, int]:
        """The mask with `compact_axis` split into (extent / width, width), and the position of the split-off axis."""
        axis = self.compact_axis
        grid = self.grid
        return self.sites().reshape(*grid[: axis + 1], self.width, *grid[axis + 1 :]), axis + 1 - (self.geometry.Nd + 1)

    # Selecting by a masked sum over the `width` candidates reads more than a gather would, but vectorises, and its transpose
    # is a broadcast instead of a scatter.
    def compact(self, field: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        onehot, axis = self._blocked()
        lead = field.shape[: field.ndim - self.geometry.Nd]
        blocks = field.reshape(*lead, *onehot.shape)
        weights = jnp.asarray(onehot.reshape((1,) * len(lead) + onehot.shape), field.dtype)
        return (blocks * weights).sum(axis)

    def expand(self, values: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        onehot, axis = self._blocked()
        lead = values.shape[: values.ndim - self.geometry.Nd]
        weights = jnp.asarray(onehot.reshape((1,) * len(lead) + onehot.shape), values.dtype)
        return (jnp.expand_dims(values, axis) * weights).reshape(*lead, *self.geometry.shape)


def stripes(geometry: Geometry, orientation: int, width: int = 4) -> StridedMask:
    """Stripes of 2003.06413 in two dimensions: every `width`-th row of links across `orientation`. Width at least 3 leaves
    frozen rows; all links are updated in 2 `width` layers."""
    if geometry.Nd != 2:
        raise ValueError(f"stripe masks exist in two dimensions only, got {geometry.shape}; use the diagonal masks")
    if width < 2:
        raise ValueError(f"stripe masks need a width of at least 2, got {width}")
    stride = tuple(1 if nu == orientation else width for nu in range(2))
    return StridedMask(geometry, orientation, stride, (0, 0))


def diagonal(geometry: Geometry, orientation: int, width: int = 4) -> DiagonalMask:
    """The masks of 2208.03832 (width 4, shifts [1, 2, 1, 1] rotated so that the first belongs to `orientation`), cut to Nd."""
    pattern = (1, 2, 1, 1)[: geometry.Nd]
    shifts = tuple(pattern[(nu - orientation) % geometry.Nd] for nu in range(geometry.Nd))
    return DiagonalMask(geometry, orientation, width, shifts)


def coarse_to_fine(geometry: Geometry) -> tuple[tuple[StridedMask, tuple[int, int]], ...]:
    """Masks that bisect a two-dimensional torus into single plaquettes: ((mask, block), ...), coarsest first.

    Each step cuts all blocks of B_0 x B_1 plaquettes in half along their longer side nu. The cut is a line of links in
    direction mu != nu; one link on it, at x = (0 modulo B_mu, B_nu/2 modulo B_nu), is active, so that the flux of one half
    changes and that of the whole block does not. Extents must be powers of two; raises ValueError otherwise.
    """
    if geometry.Nd != 2 or any(n & (n - 1) for n in geometry.shape):
        raise ValueError(
            f"coarse-to-fine masks need a two-dimensional lattice with extents that are powers of two, got {geometry.shape}"
        )
    block = list(geometry.shape)
    out = []
    while max(block) > 1:
        nu = 1 if block[1] >= block[0] else 0
        offset = tuple(block[nu] // 2 if i == nu else 0 for i in range(2))
        out.append((StridedMask(geometry, 1 - nu, (block[0], block[1]), offset), (block[0], block[1])))
        block[nu] //= 2
    return tuple(out)


def checkerboard_sites(geometry: Geometry) -> DiagonalMask:
    """Even sites as a mask of width 2, for scalar fields (`orientation` has no meaning there)."""
    geometry.require_even("a checkerboard")
    return DiagonalMask(geometry, 0, 2, (1,) * geometry.Nd)
