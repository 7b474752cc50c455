"""Geometry, neighbour shifts, parity and coupling masks."""

from latflow.lattice.geometry import Geometry
from latflow.lattice.halves import Halves
from latflow.lattice.mask import (
    AbstractMask,
    DiagonalMask,
    StridedMask,
    checkerboard_sites,
    coarse_to_fine,
    diagonal,
    stripes,
    touched_plaquettes,
)
from latflow.lattice.shift import component, shift

__all__ = [
    "AbstractMask",
    "DiagonalMask",
    "Geometry",
    "Halves",
    "StridedMask",
    "checkerboard_sites",
    "coarse_to_fine",
    "component",
    "diagonal",
    "shift",
    "stripes",
    "touched_plaquettes",
]
