"""Exact sampling of lattice field theories with trained normalizing flows."""

from latflow.xla_flags import set_flags

__version__ = "0.1.0"

set_flags()
