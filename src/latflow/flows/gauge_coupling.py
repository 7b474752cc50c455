"""The gauge-equivariant coupling layer for U(1): a loop is transformed, the link through it follows.

For each active link with loop angle a and frozen context c the layer applies a circle diffeomorphism f(.; c),

    theta' = theta + f(a; c) - a,      log|det J| = sum_active log f'(a; c),

which commutes with gauge transformations because a and c are gauge invariant (2003.06413, Eqs. 8-13).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from latflow.flows.base import AbstractBijection
from latflow.flows.loop_view import BlockView, DiagonalView, StripeView
from latflow.flows.spline import (
    circular_forward,
    circular_inverse,
    harmonic_forward,
    harmonic_inverse,
    num_circular_parameters,
)
from latflow.nets import ConvNet, PointwiseNet
from latflow.precision import double_sum

HARMONICS = 8

Theta = Float[Array, "Nd ..."]


class U1Coupling(AbstractBijection):
    """One layer on links `(Nd, *lattice)`. `phase` translates the mask along its compact axis (None: not at all); it is an
    array, so that layers that differ only in phase can be scanned. Computes splines and the last network layers at active
    links only."""

    view: StripeView | DiagonalView | BlockView = eqx.field(static=True)
    bins: int = eqx.field(static=True)
    odd: bool = eqx.field(static=True)
    trunk: ConvNet | None
    head: PointwiseNet
    concentration: Float[Array, ""] | None
    phase: Int[Array, ""] | None

    def __init__(
        self,
        view: StripeView | DiagonalView | BlockView,
        *,
        key: PRNGKeyArray,
        phase: int | None = None,
        bins: int = 8,
        conv: tuple[int, ...] = (16,),
        hidden: tuple[int, ...] = (32,),
        kernel_size: int = 3,
        separable: bool = False,
        dtype=jnp.float32,
    ):
        """`conv`: channels of the convolutions (empty for none); `hidden`: widths of the pointwise network behind them.
        Block views have odd transformations, given by `HARMONICS` cosines of the log density of their output."""
        self.view, self.bins = view, bins
        self.odd = isinstance(view, BlockView)
        k0, k1 = jax.random.split(key)
        channels = view.near_channels - self.odd  # cos(s/2) enters as a factor, not as an input
        if conv and view.far_channels:
            Nd = view.mask.geometry.Nd
            self.trunk = ConvNet(view.far_channels, conv, (kernel_size,) * Nd, key=k0, separable=separable, dtype=dtype)
            channels += conv[-1]
        else:
            self.trunk = None
        outputs = HARMONICS if self.odd else num_circular_parameters(bins)
        self.head = PointwiseNet(channels, hidden, outputs, key=k1, dtype=dtype)
        self.concentration = jnp.zeros((), dtype) if self.odd else None
        self.phase = None if phase is None else jnp.asarray(phase, jnp.int32)

    def _parameters(self, near: Float[Array, "..."], far: Float[Array, "..."]) -> Float[Array, "P ..."]:
        if self.odd:
            return self._odd_parameters(near)
        if self.trunk is not None:
            near = jnp.concatenate([near, self.view.to_active(self.trunk(far))])
        return self.head(near)

    def _odd_parameters(self, near: Float[Array, "3 ..."]) -> Float[Array, "H ..."]:
        """Cosine coefficients c_k of the log density of the angle a - s/2.

        s and s + 2 pi are the same flux, but the angle a - s/2 differs by pi between them and odd harmonics change their sign.
        So those carry a factor cos(s/2), which makes the map continuous in s all round the circle; without that, pathwise
        gradients would be biased.
        """
        cosine, raw = near[0], self.head(near[1:])
        # Two halves of one plaquette each have density exp(2 beta cos(s/2) cos(a - s/2)) exactly, larger ones nearly (for
        # other concentrations). One trained number, in units in which Adam finds it fast, carries that form; the network
        # adds the rest. Without it the tails, which are seldom visited, are learned late or not at all.
        assert self.concentration is not None
        first = cosine * (10 * self.concentration + raw[0])
        rest = [cosine * c if k % 2 else c for k, c in enumerate(raw[1:], start=2)]
        return jnp.stack([first, *rest])

    def _apply(self, theta: Theta, transform) -> tuple[Theta, Float[Array, ""]]:
        mask = self.view.mask
        axis = mask.compact_axis + 1
        theta = theta if self.phase is None else jnp.roll(theta, -self.phase, axis)
        view = self.view(theta)
        angle, log_slope = transform(view.angle, self._parameters(view.near, view.far), self.bins)
        mu = mask.orientation
        move = mask.expand(angle - view.angle)[None]
        rest = [(0, 0, 0)] * mask.geometry.Nd
        theta = theta + jax.lax.pad(move, jnp.zeros((), move.dtype), [(mu, mask.geometry.Nd - 1 - mu, 0), *rest])
        theta = theta if self.phase is None else jnp.roll(theta, self.phase, axis)
        return theta, double_sum(log_slope)

    def forward_and_log_det(self, x: Theta, context: Any = None) -> tuple[Theta, Float[Array, ""]]:
        return self._apply(x, harmonic_forward if self.odd else circular_forward)

    def inverse_and_log_det(self, y: Theta, context: Any = None) -> tuple[Theta, Float[Array, ""]]:
        return self._apply(y, harmonic_inverse if self.odd else circular_inverse)
