"""[flow]: the bijection between prior and target. A new flow is one class here and one row in `latflow.app.builders`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from latflow.app.config.flow.continuous import ContinuousFlow
from latflow.app.config.flow.identity import IdentityFlow
from latflow.app.config.flow.none import NoFlow
from latflow.app.config.flow.residual_sweeps import ResidualSweepsFlow
from latflow.app.config.flow.scalar_coupling import ScalarCouplingFlow
from latflow.app.config.flow.sun_coupling import SUNCouplingFlow
from latflow.app.config.flow.u1_coupling import U1CouplingFlow

__all__ = [
    "ContinuousFlow",
    "Flow",
    "IdentityFlow",
    "NoFlow",
    "ResidualSweepsFlow",
    "SUNCouplingFlow",
    "ScalarCouplingFlow",
    "U1CouplingFlow",
]

Flow = Annotated[
    IdentityFlow | NoFlow | U1CouplingFlow | SUNCouplingFlow | ContinuousFlow | ResidualSweepsFlow | ScalarCouplingFlow,
    Field(discriminator="kind"),
]
