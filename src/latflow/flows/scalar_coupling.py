"""Checkerboard coupling layers for scalar fields, affine or spline, optionally equivariant under phi -> -phi.

Sites of one parity are transformed given the other parity (1904.12072, Eqs. 10-12),

    y = g(x; c) exp(s(c)) + t(c),     log|det J| = sum_active [s(c) + log g'(x; c)],

with g the identity or a rational-quadratic spline on [-B, B] continued by straight lines of slope 1. Under Z2 the context of
the frozen sites enters through odd features o (convolutions without bias, odd activations) and even ones o^2: s is a function
of even features, t a combination of odd features with even coefficients, and g(-x; -c) = -g(x; c).
"""

from __future__ import annotations

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from latflow.flows.base import AbstractBijection
from latflow.flows.compose import Scan
from latflow.flows.spline import interval_forward, interval_inverse
from latflow.lattice import DiagonalMask, Geometry, checkerboard_sites
from latflow.nets import PeriodicConv, PointwiseNet
from latflow.precision import double_sum

Phi = Float[Array, "..."]


class _OddTrunk(eqx.Module):
    """Odd features of the frozen field: tanh convolutions without bias."""

    layers: tuple[PeriodicConv, ...]

    def __init__(self, Nd: int, hidden: tuple[int, ...], kernel_size: int, use_bias: bool, *, key: PRNGKeyArray, dtype):
        widths = (1, *hidden)
        keys = jax.random.split(key, len(hidden))
        self.layers = tuple(
            PeriodicConv(a, b, (kernel_size,) * Nd, key=k, use_bias=use_bias, dtype=dtype)
            for a, b, k in zip(widths, hidden, keys, strict=False)
        )

    def __call__(self, x: Float[Array, "1 ..."]) -> Float[Array, "channels ..."]:
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return x


class ScalarCoupling(AbstractBijection):
    """One layer on a scalar field `(*lattice)`. `parity` (0: even sites move, 1: odd sites) is an array, so that layers of
    both parities are scanned together."""

    mask: DiagonalMask = eqx.field(static=True)
    bins: int = eqx.field(static=True)
    bound: float = eqx.field(static=True)
    z2: bool = eqx.field(static=True)
    trunk: _OddTrunk
    head: PointwiseNet
    parity: Int[Array, ""]

    def __init__(
        self,
        geometry: Geometry,
        *,
        key: PRNGKeyArray,
        parity: int = 0,
        transform: Literal["affine", "spline"] = "affine",
        hidden: tuple[int, ...] = (16, 16),
        kernel_size: int = 3,
        z2: bool = True,
        bins: int = 8,
        bound: float = 3.0,
        dtype=jnp.float32,
    ):
        """Raises ValueError for odd extents, no hidden layer, or an odd number of spline bins."""
        if not hidden:
            raise ValueError("scalar coupling layers need at least one hidden layer")
        if transform == "spline" and bins % 2:
            raise ValueError(f"spline coupling layers need an even number of bins, got {bins}")
        self.mask = checkerboard_sites(geometry)
        self.bins, self.bound, self.z2 = (bins if transform == "spline" else 0), bound, z2
        k0, k1 = jax.random.split(key)
        self.trunk = _OddTrunk(geometry.Nd, tuple(hidden), kernel_size, not z2, key=k0, dtype=dtype)
        even, odd = self._counts()
        channels = hidden[-1] + 1
        outputs = even + odd * channels if z2 else even + odd
        self.head = PointwiseNet(channels, (2 * hidden[-1],), outputs, key=k1, dtype=dtype)
        self.parity = jnp.asarray(parity, jnp.int32)

    def _counts(self) -> tuple[int, int]:
        """Numbers of parameters per site that are even and odd under Z2: scale, widths, heights, slopes; shift, the same."""
        half = self.bins // 2
        slopes = max(self.bins - 1, 0)
        return 1 + 2 * half + (slopes + 1) // 2, 1 + 2 * half + slopes // 2

    def _parameters(self, odd: Float[Array, "channels ..."]):
        """(s, t, raw widths, raw heights, raw slopes) at active sites."""
        n_even, n_odd = self._counts()
        if self.z2:
            out = self.head(odd * odd)
            even = out[:n_even]
            coefficients = out[n_even:].reshape(n_odd, odd.shape[0], *odd.shape[1:])
            odds = jnp.sum(coefficients * odd[None], axis=1)
        else:
            out = self.head(odd)
            even, odds = out[:n_even], out[n_even:]
        half = self.bins // 2
        ew, eh, es = even[1 : 1 + half], even[1 + half : 1 + 2 * half], even[1 + 2 * half :]
        ow, oh, os = odds[1 : 1 + half], odds[1 + half : 1 + 2 * half], odds[1 + 2 * half :]
        width = jnp.concatenate([ew + ow, (ew - ow)[::-1]])
        height = jnp.concatenate([eh + oh, (eh - oh)[::-1]])
        n = os.shape[0]
        slope = jnp.concatenate([es[:n] + os, es[n:], (es[:n] - os)[::-1]])
        return 2 * jnp.tanh(even[0] / 2), odds[0], width, height, slope

    def _apply(self, phi: Phi, forward: bool) -> tuple[Phi, Float[Array, ""]]:
        mask, axis = self.mask, self.mask.compact_axis
        phi = jnp.roll(phi, -self.parity, axis)
        sites = mask.sites()
        frozen = phi * jnp.asarray(~sites, phi.dtype)
        # The mean of the neighbours is what the action couples to; it goes to the head directly. All features are bounded, so
        # that an early optimiser step cannot run away through a stack of layers.
        near = sum(jnp.roll(frozen, step, mu) for mu in range(phi.ndim) for step in (1, -1)) / phi.ndim
        features = jnp.concatenate([self.trunk(frozen[None]), jnp.tanh(near)[None]])
        s, t, width, height, slope = self._parameters(mask.compact(features))
        x = mask.compact(phi)
        if forward:
            y, log_slope = interval_forward(x, width, height, slope, self.bound) if self.bins else (x, jnp.zeros_like(x))
            y, log_slope = y * jnp.exp(s) + t, log_slope + s
        else:
            y, log_slope = (x - t) * jnp.exp(-s), -s
            if self.bins:
                y, more = interval_inverse(y, width, height, slope, self.bound)
                log_slope = log_slope + more
        phi = jnp.roll(frozen + mask.expand(y), self.parity, axis)
        return phi, double_sum(log_slope)

    def forward_and_log_det(self, x: Phi, context: Any = None) -> tuple[Phi, Float[Array, ""]]:
        return self._apply(x, True)

    def inverse_and_log_det(self, y: Phi, context: Any = None) -> tuple[Phi, Float[Array, ""]]:
        return self._apply(y, False)


def scalar_coupling_flow(
    geometry: Geometry, *, key: PRNGKeyArray, blocks: int = 4, rematerialise: bool = False, **layer
) -> AbstractBijection:
    """`blocks` pairs of layers, even sites then odd sites, run by one scan. `layer`: keywords of `ScalarCoupling`."""
    keys = jax.random.split(key, 2 * blocks)
    return Scan([ScalarCoupling(geometry, key=k, parity=i % 2, **layer) for i, k in enumerate(keys)], rematerialise)
