"""Bijections of lattice fields with tractable Jacobians."""

from latflow.flows.base import AbstractBijection
from latflow.flows.compose import Chain, Identity, Inverse, Scan
from latflow.flows.continuous import ContinuousFlow, needs_audit, refined
from latflow.flows.gauge_coupling import U1Coupling
from latflow.flows.incomplete import IncompleteFactor
from latflow.flows.linear import AbstractConditional, AbstractLinearMap, IdentityConditional, Product
from latflow.flows.loop_terms import SUNLoopTerms, U1LoopTerms
from latflow.flows.pseudofermion_layers import PseudofermionFlow
from latflow.flows.residual_coupling import ResidualCoupling
from latflow.flows.residual_sweep import ResidualSweep
from latflow.flows.scalar_coupling import ScalarCoupling, scalar_coupling_flow
from latflow.flows.spectral_coupling import SpectralCoupling
from latflow.flows.sun import sun_coupling_flow
from latflow.flows.u1 import u1_coupling_flow

__all__ = [
    "AbstractBijection",
    "AbstractConditional",
    "AbstractLinearMap",
    "Chain",
    "Identity",
    "IdentityConditional",
    "IncompleteFactor",
    "Inverse",
    "Product",
    "PseudofermionFlow",
    "ResidualCoupling",
    "ResidualSweep",
    "Scan",
    "ScalarCoupling",
    "SpectralCoupling",
    "ContinuousFlow",
    "U1Coupling",
    "SUNLoopTerms",
    "U1LoopTerms",
    "needs_audit",
    "refined",
    "scalar_coupling_flow",
    "sun_coupling_flow",
    "u1_coupling_flow",
]
