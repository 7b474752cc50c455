"""Exact sampling of lattice field theories with trained normalizing flows."""

__version__ = "0.1.0"
