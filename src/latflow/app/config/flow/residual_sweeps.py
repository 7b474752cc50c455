"""Residual steps with parameters shared by all links."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from latflow.app.config.base import NonNegative, Positive, PositiveFloat
from latflow.app.config.flow.base import FlowSection


class ResidualSweepsFlow(FlowSection):
    """`sweeps` steps of a generalised gradient flow, each over all links, a fraction 1 / `width` of those of one direction at a
    time. Staples of links smeared up to `rounds` times enter with coefficients that all links share, so that the model
    serves any volume; `eta` is where the weights of the smearing start, `limit` < 1 bounds the steps."""

    fits = ("sun",)
    advice = "use continuous for U(1), scalar-coupling for scalar fields"
    kind: Literal["residual-sweeps"]
    sweeps: Positive = 1
    rounds: NonNegative = 2
    width: Annotated[int, Field(ge=3)] = 4
    eta: PositiveFloat = 0.2
    limit: Annotated[float, Field(gt=0, lt=1)] = 0.8

    def lattice_problems(self, lattice: tuple[int, ...]) -> Iterator[tuple[str, str]]:
        if any(n % self.width for n in lattice):
            yield "width", f"the masks have period {self.width}, which must divide every extent of {list(lattice)}"
