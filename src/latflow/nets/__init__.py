"""Networks with the symmetries of the lattice."""

from latflow.nets.conv import ConvNet, PeriodicConv, PointwiseNet, SeparableConv

__all__ = ["ConvNet", "PeriodicConv", "PointwiseNet", "SeparableConv"]
