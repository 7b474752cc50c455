"""Bijections of lattice fields with tractable Jacobians."""

from latflow.flows.base import AbstractBijection
from latflow.flows.compose import Chain, Identity, Inverse, Scan
from latflow.flows.gauge_coupling import U1Coupling
from latflow.flows.u1 import u1_coupling_flow

__all__ = ["AbstractBijection", "Chain", "Identity", "Inverse", "Scan", "U1Coupling", "u1_coupling_flow"]
