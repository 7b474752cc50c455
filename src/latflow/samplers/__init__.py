"""From proposals and kernels to Markov chains on disk."""

from latflow.samplers.chain import ChainSummary, run_chain
from latflow.samplers.metropolis import MetropolisChain, Position, count_unusable, independence_metropolis
from latflow.samplers.proposals import ProposalSummary, draw_proposals, log_weights, weigh_proposals

__all__ = [
    "ChainSummary",
    "MetropolisChain",
    "Position",
    "ProposalSummary",
    "count_unusable",
    "draw_proposals",
    "independence_metropolis",
    "log_weights",
    "run_chain",
    "weigh_proposals",
]
