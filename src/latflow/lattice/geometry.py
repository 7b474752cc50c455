"""Hypercubic periodic lattices of any dimension with unequal extents.

Sites are x = (x_0, ..., x_{Nd-1}); direction 0 is time. The lattice axes are always the trailing axes of a field, so that
direction `mu` is array axis `mu - Nd` whatever colour, spin or direction axes stand in front.
"""

from __future__ import annotations

import dataclasses
import math
from itertools import combinations

import numpy as np


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Shape of a periodic lattice. Hashable, so it can be a static part of any module.

    Raises ValueError for extents that are not positive integers.
    """

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        shape = tuple(self.shape)
        if not shape or any(isinstance(n, bool) or int(n) != n or n < 1 for n in shape):
            raise ValueError(f"lattice extents must be positive integers, got {self.shape!r}")
        object.__setattr__(self, "shape", tuple(int(n) for n in shape))

    @property
    def Nd(self) -> int:
        return len(self.shape)

    @property
    def volume(self) -> int:
        return math.prod(self.shape)

    @property
    def planes(self) -> tuple[tuple[int, int], ...]:
        """All (mu, nu) with mu < nu."""
        return tuple(combinations(range(self.Nd), 2))

    def coordinates(self) -> np.ndarray:
        """Integer array (Nd, *shape): the coordinates of every site."""
        return np.indices(self.shape)

    def parity(self) -> np.ndarray:
        """Integer array of `shape`: sum of the coordinates modulo 2."""
        return self.coordinates().sum(0) % 2

    def require_even(self, what: str) -> None:
        """Raise ValueError unless every extent is even, as checkerboard algorithms need on a periodic lattice."""
        odd = [n for n in self.shape if n % 2]
        if odd:
            raise ValueError(f"{what} needs even extents on a periodic lattice, got {self.shape}; change {odd} to even numbers")
