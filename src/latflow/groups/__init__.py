"""Compact groups and the real line behind one interface."""

from latflow.groups.abelian import U1, RealLine, wrap
from latflow.groups.base import AbstractGroup
from latflow.groups.sun import SUN

__all__ = ["AbstractGroup", "RealLine", "SUN", "U1", "wrap"]
