"""Published and own layer sequences for U(1): which masks in which order."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from latflow.flows.base import AbstractBijection
from latflow.flows.compose import Chain, Scan
from latflow.flows.gauge_coupling import U1Coupling
from latflow.flows.loop_view import BlockView, DiagonalView, Loop, StripeView
from latflow.lattice import Geometry, coarse_to_fine, diagonal, stripes

MaskKind = Literal["coarse-to-fine", "stripes", "diagonal"]


def phase_order(width: int) -> list[int]:
    """Phases 0 .. width-1, far ones next to each other: 0, 2, 1, 3 for width 4."""
    return [*range(0, width, 2), *range(1, width, 2)]


def u1_coupling_flow(
    geometry: Geometry,
    *,
    key: PRNGKeyArray,
    mask: MaskKind = "stripes",
    blocks: int = 8,
    width: int = 4,
    loop: Loop | None = None,
    bins: int = 8,
    conv: tuple[int, ...] = (16,),
    hidden: tuple[int, ...] = (32,),
    kernel_size: int = 3,
    rematerialise: bool = False,
    dtype=jnp.float32,
) -> AbstractBijection:
    """A flow on U(1) links in 2, 3 or 4 dimensions.

    `mask="stripes"` (two dimensions) or `"diagonal"`: `blocks` times one layer per direction, all at the same phase, phases in
    turn; a cycle of `width` blocks updates every link once, and Nd x blocks layers are scanned. `mask="coarse-to-fine"` (two
    dimensions, extents powers of two): one pass from the whole torus to single plaquettes, log2(volume) layers; `blocks`
    further stripe blocks may follow.

    `loop=None` chooses "plaquette" in two dimensions, where the direction of two staples jumps by pi on a surface (pathwise
    gradients do not see such jumps and would be biased), and "staples" above, where it is singular only on a set of
    codimension two.
    """
    chosen: Loop = loop or ("plaquette" if geometry.Nd == 2 else "staples")
    net: dict[str, Any] = {"bins": bins, "hidden": tuple(hidden), "dtype": dtype}
    passes: list[AbstractBijection] = []
    if mask == "coarse-to-fine":
        levels = coarse_to_fine(geometry)
        keys = jax.random.split(key, len(levels) + 1)
        key = keys[-1]
        passes += [U1Coupling(BlockView(m, b), key=k, **net) for (m, b), k in zip(levels, keys[:-1], strict=True)]
    if blocks:
        in_two = geometry.Nd == 2 and mask != "diagonal"
        views = [
            StripeView(stripes(geometry, mu, width), chosen) if in_two else DiagonalView(diagonal(geometry, mu, width), chosen)
            for mu in range(geometry.Nd)
        ]
        order = phase_order(width)
        local = []
        for i, k in enumerate(jax.random.split(key, blocks)):
            local.append(
                Chain(
                    [
                        U1Coupling(
                            view,
                            key=kk,
                            phase=order[i % width],
                            conv=tuple(conv),
                            kernel_size=kernel_size,
                            separable=geometry.Nd > 2,
                            **net,
                        )
                        for view, kk in zip(views, jax.random.split(k, geometry.Nd), strict=True)
                    ]
                )
            )
        passes.append(Scan(local, rematerialise))
    return passes[0] if len(passes) == 1 else Chain(passes)
