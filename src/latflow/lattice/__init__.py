"""Geometry, neighbour shifts, parity and coupling masks."""

from latflow.lattice.geometry import Geometry
from latflow.lattice.shift import component, shift

__all__ = ["Geometry", "component", "shift"]
