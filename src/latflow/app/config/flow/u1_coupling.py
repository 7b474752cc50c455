"""Gauge-equivariant coupling layers for U(1)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from latflow.app.config.flow.base import LinkCoupling


class U1CouplingFlow(LinkCoupling):
    """The active plaquettes are transformed by circular splines, the active links follow."""

    fits = ("u1",)
    advice = "use sun-coupling for SU(N), scalar-coupling for scalar fields"
    kind: Literal["u1-coupling"]
    loop: Literal["plaquette", "staples"] | None = None
    bins: Annotated[int, Field(ge=2)] = 8
