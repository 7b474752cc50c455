"""Gauge-equivariant coupling layers for U(1)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from latflow.app.config.base import Integers, Positive
from latflow.app.config.flow.base import FlowSection, KernelSize


class U1CouplingFlow(FlowSection):
    """The active plaquettes are transformed by circular splines, the active links follow."""

    fits = ("u1",)
    advice = "use scalar-coupling for scalar fields"
    kind: Literal["u1-coupling"]
    blocks: Positive = 4
    mask: Literal["stripes", "hierarchical", "general"] = "stripes"
    loop: Literal["plaquette", "staples"] = "plaquette"
    hidden: Integers = (32, 32)
    kernel_size: KernelSize = 3
    bins: Annotated[int, Field(ge=2)] = 8
    remat: bool = False
