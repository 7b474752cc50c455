"""The even and the odd half of a lattice, each stored densely: what even/odd preconditioned operators work on.

A half keeps every axis but the last, which is cut in two: the site x_last = 2 j + r of a row has index j, where r = 0 or 1 is
fixed by the parity of the half and of the row.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from latflow.lattice.geometry import Geometry
from latflow.lattice.shift import shift


@dataclasses.dataclass(frozen=True)
class Halves:
    """Splitting of fields whose last `Nd` axes are the lattice. Parity 0 is even. Raises ValueError for odd extents."""

    geometry: Geometry

    def __post_init__(self) -> None:
        self.geometry.require_even("even/odd preconditioning")

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of a half."""
        *rows, last = self.geometry.shape
        return (*rows, last // 2)

    def _row_parity(self) -> np.ndarray:
        """Parity of the coordinates other than the last, of shape (*rows, 1)."""
        return self.geometry.parity()[..., :1]

    def coordinates(self, parity: int) -> np.ndarray:
        """Integer array (Nd, *shape): the coordinates of the sites of `parity`, in the order in which they are stored."""
        x = self.geometry.coordinates()[..., ::2].copy()
        x[-1] += (self._row_parity() + parity) % 2
        return x

    def split(self, field: Shaped[Array, "..."]) -> tuple[Shaped[Array, "..."], Shaped[Array, "..."]]:
        """(even, odd) halves."""
        pairs = field.reshape(*field.shape[:-1], -1, 2)
        odd_row = jnp.asarray(self._row_parity() == 1).reshape(
            *[1] * (field.ndim - self.geometry.Nd), *self._row_parity().shape
        )
        first, second = pairs[..., 0], pairs[..., 1]
        return jnp.where(odd_row, second, first), jnp.where(odd_row, first, second)

    def merge(self, even: Shaped[Array, "..."], odd: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        """The inverse of `split`."""
        odd_row = jnp.asarray(self._row_parity() == 1).reshape(*[1] * (even.ndim - self.geometry.Nd), *self._row_parity().shape)
        pairs = jnp.stack([jnp.where(odd_row, odd, even), jnp.where(odd_row, even, odd)], axis=-1)
        return pairs.reshape(*even.shape[:-1], -1)

    def shift(self, half: Shaped[Array, "..."], mu: int, parity: int, distance: int) -> Shaped[Array, "..."]:
        """The `half` of the other parity seen from the sites of `parity`, one step away: out(x) = half(x + distance mu) for
        `distance` 1 or -1."""
        Nd = self.geometry.Nd
        if mu != Nd - 1:
            return shift(half, mu, Nd, distance)
        # an even site of an even row has its forward neighbour in its own pair, its backward one in the pair before
        moved = shift(half, mu, Nd, distance)
        own_pair = (self._row_parity() + parity + (distance < 0)) % 2 == 0
        own_pair = jnp.asarray(own_pair).reshape(*[1] * (half.ndim - Nd), *own_pair.shape)
        return jnp.where(own_pair, half, moved)
