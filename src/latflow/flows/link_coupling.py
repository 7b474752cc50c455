"""What spectral and residual layers share: where the mask stands, and the network behind their context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Int, PRNGKeyArray, Shaped

from latflow.lattice import AbstractMask, component
from latflow.nets import ConvNet
from latflow.precision import double_sum

Links = Complex[Array, "Nc Nc Nd ..."]


def move_active(
    mask: AbstractMask, phase: Int[Array, ""] | None, links: Links, transform: Callable[[Links, Links], Any]
) -> tuple[Links, Float[Array, ""]]:
    """Replace the active links by `transform(links, active)` -> (new active links, log det per link), after translating the
    mask by `phase` along its compact axis. Active links come and go with their sites on one axis, see `one_axis`."""
    Nd, mu = mask.geometry.Nd, mask.orientation
    axis = 3 + mask.compact_axis
    links = links if phase is None else jnp.roll(links, -phase, axis)
    new, log_det = transform(links, one_axis(mask, mask.compact(component(links, mu, Nd))))
    new = new.reshape(*new.shape[:2], *mask.grid)
    keep = jnp.asarray(1 - mask.links(), links.dtype)[None, None]
    padded = jax.lax.pad(
        mask.expand(new)[:, :, None],
        jnp.zeros((), new.dtype),
        [(0, 0, 0), (0, 0, 0), (mu, Nd - 1 - mu, 0), *[(0, 0, 0)] * Nd],
    )
    links = links * keep + padded
    return (links if phase is None else jnp.roll(links, phase, axis)), double_sum(log_det)


def one_axis(mask: AbstractMask, values: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """(..., *grid) -> (..., active sites). Loops run over the last axis, and the last of the grid is short: L/4 of diagonal
    masks."""
    return values.reshape(*values.shape[: values.ndim - mask.geometry.Nd], -1)


class FarContext(eqx.Module):
    """Convolutions over the traces of frozen loops, read off at active sites (on `one_axis`); nothing where a view has no far
    loops."""

    trunk: ConvNet | None
    channels: int = eqx.field(static=True)

    def __init__(
        self, far_channels: int, Nd: int, conv: tuple[int, ...], kernel_size: int, *, key: PRNGKeyArray, dtype=jnp.float32
    ):
        used = bool(conv) and far_channels > 0
        self.channels = conv[-1] if used else 0
        kernel = (kernel_size,) * Nd
        self.trunk = ConvNet(far_channels, conv, kernel, key=key, separable=Nd > 2, dtype=dtype) if used else None

    def __call__(self, mask: AbstractMask, far: Float[Array, "..."]) -> list[Float[Array, "..."]]:
        if self.trunk is None:
            return []
        # the last activation at active sites only
        return [self.trunk.activation(one_axis(mask, mask.compact(self.trunk.before_activation(far))))]
