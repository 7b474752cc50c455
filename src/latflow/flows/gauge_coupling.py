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
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from latflow.flows.base import AbstractBijection
from latflow.flows.loop_view import BlockView, DiagonalView, StripeView
from latflow.flows.spline import circular_forward, circular_inverse, num_circular_parameters
from latflow.nets import ConvNet, PointwiseNet

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
        `odd` transformations (block views) have half as many free parameters and need an even number of bins."""
        self.view, self.bins = view, bins
        self.odd = isinstance(view, BlockView)
        if self.odd and bins % 2:
            raise ValueError(f"coarse-to-fine layers mirror their splines and need an even number of bins, got {bins}")
        k0, k1 = jax.random.split(key)
        channels = view.near_channels - self.odd  # cos(s/2) enters as a factor, not as an input
        if conv and view.far_channels:
            Nd = view.mask.geometry.Nd
            self.trunk = ConvNet(view.far_channels, conv, (kernel_size,) * Nd, key=k0, separable=separable, dtype=dtype)
            channels += conv[-1]
        else:
            self.trunk = None
        outputs = 2 * (bins // 2) + 1 if self.odd else num_circular_parameters(bins)
        self.head = PointwiseNet(channels, hidden, outputs, key=k1, dtype=dtype)
        self.concentration = jnp.zeros((), dtype) if self.odd else None
        self.phase = None if phase is None else jnp.asarray(phase, jnp.int32)

    def _parameters(self, near: Float[Array, "..."], far: Float[Array, "..."]) -> Float[Array, "P ..."]:
        if self.odd:
            return self._odd_parameters(near)
        if self.trunk is not None:
            near = jnp.concatenate([near, self.view.to_active(self.trunk(far))])
        return self.head(near)

    def _odd_parameters(self, near: Float[Array, "3 ..."]) -> Float[Array, "P ..."]:
        """Parameters of an odd spline that turns into itself, shifted by half a turn, when cos(s/2) changes sign.

        s and s + 2 pi are the same flux, but the angle a - s/2 differs by pi between them. What is mirrored about -pi/2 does
        not notice; what is not carries a factor cos(s/2). So the map is continuous in s all round the circle, without which
        pathwise gradients would be biased.
        """
        half = self.bins // 2
        cosine, raw = near[:1], self.head(near[1:])

        def fold(x: Float[Array, "..."]) -> Float[Array, "..."]:
            mirrored = x[::-1]
            return (x + mirrored) / 2 + cosine * (x - mirrored) / 2

        # Two equal halves of one plaquette each have density exp(2 beta cos(s/2) cos(a - s/2)) exactly, larger ones nearly
        # (for other concentrations). One trained number, in units in which Adam finds it fast, carries that form; the
        # network adds the rest. Without it the tails, which are seldom visited, are learned late or not at all.
        assert self.concentration is not None
        centres = jnp.asarray(-np.pi + (np.arange(half) + 0.5) * 2 * np.pi / self.bins, raw.dtype)
        base = 10 * self.concentration * cosine * jnp.cos(centres).reshape(-1, *(1,) * (raw.ndim - 1))
        # derivatives at the knots -pi ... 0 and at their mirror images; the one at pi is that at -pi
        w, d = fold(raw[:half]) + base, fold(raw[half:])
        return jnp.concatenate([w, w[::-1], d, d[1:-1][::-1], jnp.zeros_like(d[:1])])

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
        return theta, jnp.sum(log_slope)

    def forward_and_log_det(self, x: Theta, context: Any = None) -> tuple[Theta, Float[Array, ""]]:
        return self._apply(x, circular_forward)

    def inverse_and_log_det(self, y: Theta, context: Any = None) -> tuple[Theta, Float[Array, ""]]:
        return self._apply(y, circular_inverse)
