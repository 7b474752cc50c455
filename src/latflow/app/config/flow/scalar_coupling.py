"""Coupling layers for scalar fields."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from latflow.app.config.base import Integers, Positive, PositiveFloat
from latflow.app.config.flow.base import FlowSection, KernelSize


class ScalarCouplingFlow(FlowSection):
    """Checkerboard layers: the sites of one parity are transformed given the other parity."""

    fits = ("phi4",)
    advice = "use u1-coupling for U(1)"
    kind: Literal["scalar-coupling"]
    blocks: Positive = 4
    transform: Literal["affine", "spline"] = "affine"
    hidden: Integers = (32, 32)
    kernel_size: KernelSize = 3
    z2: bool = True
    bins: Annotated[int, Field(ge=2, multiple_of=2)] = 8
    bound: PositiveFloat = 3.0
    remat: bool = False

    def lattice_problems(self, lattice: tuple[int, ...]):
        odd = [n for n in lattice if n % 2]
        if odd:
            yield "kind", f"the checkerboard needs even extents on a periodic lattice, got {list(lattice)}; make {odd} even"
