"""Gauge-equivariant coupling layers for SU(N)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, Strict

from latflow.app.config.base import NonNegative, Positive
from latflow.app.config.flow.base import LinkCoupling


class SUNCouplingFlow(LinkCoupling):
    """`layers` act one after the other on the same active links: "spectral" ones transform the eigenangles of a loop by
    splines,
    "residual" ones take a step along the force of a sum of loops. With coarse-to-fine masks each level repeats them `depth`
    times. `rounds` of smearing make the loops of residual layers larger, `limit` < 1 bounds their steps."""

    fits = ("sun",)
    advice = "use u1-coupling for U(1), scalar-coupling for scalar fields"
    kind: Literal["sun-coupling"]
    layers: Annotated[tuple[Literal["spectral", "residual"], ...], Strict(False), Field(min_length=1)] = ("spectral",)
    depth: Positive = 2
    bins: Annotated[int, Field(ge=2)] = 12
    rounds: NonNegative = 0
    limit: Annotated[float, Field(gt=0, lt=1)] = 0.8

    def lattice_problems(self, lattice: tuple[int, ...]) -> Iterator[tuple[str, str]]:
        yield from super().lattice_problems(lattice)
        if self.rounds and "residual" not in self.layers:
            yield "rounds", 'only residual layers have smeared loops; leave it out or add "residual" to layers'
