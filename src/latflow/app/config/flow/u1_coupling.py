"""Gauge-equivariant coupling layers for U(1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from latflow.app.config.base import Integers, NonNegative
from latflow.app.config.flow.base import FlowSection, KernelSize


class U1CouplingFlow(FlowSection):
    """The active plaquettes are transformed by circular splines, the active links follow."""

    fits = ("u1",)
    advice = "use scalar-coupling for scalar fields"
    kind: Literal["u1-coupling"]
    blocks: NonNegative = 4
    mask: Literal["stripes", "diagonal", "coarse-to-fine"] = "stripes"
    width: Annotated[int, Field(ge=2)] = 4
    loop: Literal["plaquette", "staples"] | None = None
    conv: Integers = (16,)
    hidden: Integers = (32,)
    kernel_size: KernelSize = 3
    bins: Annotated[int, Field(ge=2)] = 8
    remat: bool = False

    def lattice_problems(self, lattice: tuple[int, ...]) -> Iterator[tuple[str, str]]:
        if len(lattice) < 2 or min(lattice) < 2:
            return  # reported by the theory
        from latflow.lattice import Geometry, coarse_to_fine, diagonal, stripes

        if self.blocks == 0 and self.mask != "coarse-to-fine":
            yield "blocks", 'must be positive, unless mask = "coarse-to-fine" makes layers of its own'
        geometry = Geometry(lattice)
        if self.mask == "stripes" and geometry.Nd != 2:
            yield "mask", f'stripes are masks of two dimensions, not of {geometry.Nd}; use "diagonal"'
            return
        try:
            if self.mask == "coarse-to-fine":
                coarse_to_fine(geometry)
            local = diagonal if self.mask == "diagonal" or geometry.Nd != 2 else stripes
            for mu in range(geometry.Nd if self.blocks else 0):
                local(geometry, mu, self.width)
        except ValueError as error:
            yield "mask", str(error)
