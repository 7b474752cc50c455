"""Ordered products of links: plaquettes, staples, Wilson and Polyakov loops."""

from latflow.loops.clover import clover, field_strength
from latflow.loops.loops import plaquette, polyakov_loop, transporter, wilson_loop
from latflow.loops.staples import staple_sum, staples

__all__ = ["clover", "field_strength", "plaquette", "polyakov_loop", "staple_sum", "staples", "transporter", "wilson_loop"]
