"""Layer sequences for SU(N): which masks and which layers in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from latflow.flows.base import AbstractBijection
from latflow.flows.compose import Chain, Scan
from latflow.flows.residual_coupling import ResidualCoupling
from latflow.flows.spectral_coupling import SpectralCoupling
from latflow.flows.staple_view import BlockStaples, ConvolutedStaples, PlaquetteStaples
from latflow.flows.u1 import MaskKind, phase_order
from latflow.groups import SUN
from latflow.lattice import Geometry, coarse_to_fine, diagonal, stripes

LayerKind = Literal["spectral", "residual"]


def sun_coupling_flow(
    geometry: Geometry,
    group: SUN,
    *,
    key: PRNGKeyArray,
    mask: MaskKind = "stripes",
    layers: Sequence[LayerKind] = ("spectral",),
    blocks: int = 8,
    depth: int = 2,
    width: int = 4,
    bins: int = 12,
    conv: tuple[int, ...] = (16,),
    hidden: tuple[int, ...] = (32,),
    kernel_size: int = 3,
    rounds: int = 0,
    limit: float = 0.8,
    rematerialise: bool = False,
    dtype=jnp.float32,
) -> AbstractBijection:
    """A flow on SU(N) links in 2, 3 or 4 dimensions.

    `layers` are applied one after the other to the same active links, spectral ones around one staple after the other.
    `mask="stripes"` (two dimensions) or `"diagonal"`: `blocks` times all layers for each direction, at one phase, phases
    in turn.
    `mask="coarse-to-fine"` (two dimensions, extents powers of two): each step from the whole torus to single plaquettes applies
    all layers `depth` times; `blocks` further stripe blocks may follow. `rounds` and `limit` are those of residual layers.
    """
    net: dict[str, Any] = {"hidden": tuple(hidden), "conv": tuple(conv), "kernel_size": kernel_size, "dtype": dtype}

    def stack(view: PlaquetteStaples | BlockStaples, key: PRNGKeyArray, **at: Any) -> list[AbstractBijection]:
        out, main = [], 0
        for kind, k in zip(layers, jax.random.split(key, len(layers)), strict=True):
            if kind == "spectral":
                out.append(SpectralCoupling(view, key=k, main=main % view.num_staples, bins=bins, **at, **net))
                main += 1
            else:
                wide = isinstance(view, PlaquetteStaples) and rounds > 0
                seen = ConvolutedStaples(view.mask, view.group, rounds) if wide else view
                out.append(ResidualCoupling(seen, key=k, limit=limit, **at, **net))
        return out

    passes: list[AbstractBijection] = []
    if mask == "coarse-to-fine":
        for m, block in coarse_to_fine(geometry):
            key, level = jax.random.split(key)
            view = BlockStaples(m, group, block)
            passes.append(Scan([Chain(stack(view, k)) for k in jax.random.split(level, depth)], rematerialise))
    if blocks:
        cut = diagonal if mask == "diagonal" or geometry.Nd != 2 else stripes
        views = [PlaquetteStaples(cut(geometry, mu, width), group) for mu in range(geometry.Nd)]
        order = phase_order(width)
        local = []
        for i, k in enumerate(jax.random.split(key, blocks)):
            keys = jax.random.split(k, geometry.Nd)
            local.append(Chain([b for v, kk in zip(views, keys, strict=True) for b in stack(v, kk, phase=order[i % width])]))
        passes.append(Scan(local, rematerialise))
    return passes[0] if len(passes) == 1 else Chain(passes)
