"""Compact groups and the real line behind one interface."""

from latflow.groups.abelian import U1, RealLine, wrap
from latflow.groups.base import AbstractGroup

__all__ = ["AbstractGroup", "RealLine", "U1", "wrap"]
