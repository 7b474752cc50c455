"""Periodic convolutions in any dimension, and the context networks made of them.

Arrays are (channels, *grid). A convolution is a sum over stencil offsets of channel matrices applied to shifted fields; the
shifted copies are stacked and contracted in one matrix product, which on CPUs is as fast as a library convolution, works in
any dimension (XLA has no 4D convolution on CPU), and keeps whatever batch layout `jax.vmap` brings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

Features = Float[Array, "_ ..."]


def xavier_normal(
    key: PRNGKeyArray, shape: tuple[int, ...], fan_in: int, fan_out: int, gain: float, dtype
) -> Float[Array, "..."]:
    """Xavier normal initialisation (Glorot & Bengio 2010): standard deviation gain sqrt(2 / (fan_in + fan_out))."""
    return gain * math.sqrt(2 / (fan_in + fan_out)) * jax.random.normal(key, shape, dtype)


def neighbourhood(x: Features, kernel_size: Sequence[int]) -> Features:
    """What the weights of a `PeriodicConv` of this kernel are contracted with, `(stencil * channels, *grid)`: gathered once
    where many convolutions read the same features."""
    # direction by direction, the last one first: the sum of the kernel sizes shifts, not their product
    for axis, size in reversed(list(enumerate(kernel_size, start=1))):
        if half := size // 2:
            x = jnp.concatenate([jnp.roll(x, -o, axis) if o else x for o in range(-half, half + 1)])
    return x


def gathered_conv(weight: Float[Array, "out n"], bias: Float[Array, " out"], x: Features, precision: Any = None) -> Features:
    """A `PeriodicConv` of these parameters (or of some of their rows) on features from `neighbourhood`."""
    return jnp.tensordot(weight, x, 1, precision=precision) + bias.reshape(-1, *[1] * (x.ndim - 1))


class PeriodicConv(eqx.Module):
    """Translation-equivariant linear map (in_channels, *grid) -> (out_channels, *grid) on a periodic grid.

    out_o(x) = b_o + sum_{i, offset} W_{o i}(offset) in_i(x + offset), offsets in a box of odd `kernel_size` per direction.
    Raises ValueError for an even kernel.
    """

    weight: Float[Array, "out in_stencil"]
    bias: Float[Array, " out"] | None
    kernel_size: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        *,
        key: PRNGKeyArray,
        gain: float = 1.0,
        use_bias: bool = True,
        dtype=jnp.float32,
    ):
        if any(k % 2 == 0 or k < 1 for k in kernel_size):
            raise ValueError(f"kernel sizes must be odd and positive, got {tuple(kernel_size)}")
        self.kernel_size = tuple(kernel_size)
        n = math.prod(kernel_size)
        self.weight = xavier_normal(key, (out_channels, n * in_channels), n * in_channels, n * out_channels, gain, dtype)
        self.bias = jnp.zeros((out_channels,), dtype) if use_bias else None

    def __call__(self, x: Features) -> Features:
        gathered = neighbourhood(x, self.kernel_size)
        return jnp.tensordot(self.weight, gathered, 1) if self.bias is None else gathered_conv(self.weight, self.bias, gathered)


class SeparableConv(eqx.Module):
    """One-dimensional periodic convolutions along each direction in turn, a bias on the last only (2208.03832, Sec. 3.1)."""

    steps: tuple[PeriodicConv, ...]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        *,
        key: PRNGKeyArray,
        gain: float = 1.0,
        dtype=jnp.float32,
    ):
        Nd = len(kernel_size)
        steps = []
        for mu, k in enumerate(jax.random.split(key, Nd)):
            kernel = tuple(kernel_size[mu] if nu == mu else 1 for nu in range(Nd))
            channels = in_channels if mu == 0 else out_channels
            steps.append(PeriodicConv(channels, out_channels, kernel, key=k, gain=gain, use_bias=mu == Nd - 1, dtype=dtype))
        self.steps = tuple(steps)

    def __call__(self, x: Features) -> Features:
        for step in self.steps:
            x = step(x)
        return x


class ConvNet(eqx.Module):
    """One or more convolutions with an activation after each: (in_channels, *grid) -> (hidden[-1], *grid)."""

    layers: tuple[PeriodicConv | SeparableConv, ...]
    activation: Callable = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        hidden: Sequence[int],
        kernel_size: Sequence[int],
        *,
        key: PRNGKeyArray,
        separable: bool = False,
        activation: Callable = jax.nn.silu,
        gain: float = 1.0,
        dtype=jnp.float32,
    ):
        conv = SeparableConv if separable else PeriodicConv
        widths = (in_channels, *hidden)
        keys = jax.random.split(key, max(len(hidden), 1))
        self.layers = tuple(
            conv(a, b, kernel_size, key=k, gain=gain, dtype=dtype) for a, b, k in zip(widths, widths[1:], keys, strict=False)
        )
        self.activation = activation

    def __call__(self, x: Features) -> Features:
        return self.activation(self.before_activation(x))

    def before_activation(self, x: Features) -> Features:
        """What the last activation is applied to."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class PointwiseNet(eqx.Module):
    """The same small network at every point: (in_channels, ...) -> (out_channels, ...). The last layer starts near zero, so
    that a coupling layer starts near the identity."""

    layers: tuple[PeriodicConv, ...]
    activation: Callable = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        hidden: Sequence[int],
        out_channels: int,
        *,
        key: PRNGKeyArray,
        activation: Callable = jax.nn.silu,
        final_gain: float = 1e-2,
        dtype=jnp.float32,
    ):
        widths = (in_channels, *hidden, out_channels)
        gains = [1.0] * len(hidden) + [final_gain]
        keys = jax.random.split(key, len(gains))
        self.layers = tuple(
            PeriodicConv(a, b, (1,), key=k, gain=g, dtype=dtype)
            for a, b, k, g in zip(widths, widths[1:], keys, gains, strict=False)
        )
        self.activation = activation

    def __call__(self, x: Features) -> Features:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)
