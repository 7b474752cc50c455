"""Continuous flows for U(1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from latflow.app.config.base import Positive
from latflow.app.config.flow.base import FlowSection


class ContinuousFlow(FlowSection):
    """Links follow the gradient of a trainable sum of Wilson loops; `steps` integrates it, `modes` resolves its time."""

    fits = ("u1",)
    advice = "use scalar-coupling for scalar fields"
    kind: Literal["continuous"]
    steps: Positive = 16
    modes: Positive = 4

    def lattice_problems(self, lattice: tuple[int, ...]) -> Iterator[tuple[str, str]]:
        if min(lattice, default=3) == 2:
            yield "kind", f"the loops of a continuous flow need extents of at least 3, got {list(lattice)}"
