"""Networks with the symmetries of the lattice."""

from latflow.nets.conv import ConvNet, PeriodicConv, PointwiseNet, SeparableConv
from latflow.nets.parallel_transport import ParallelTransport, PlaquetteContext, ptc, ptcn

__all__ = [
    "ConvNet",
    "ParallelTransport",
    "PeriodicConv",
    "PlaquetteContext",
    "PointwiseNet",
    "SeparableConv",
    "ptc",
    "ptcn",
]
