"""The flow that changes nothing: the prior itself is the proposal."""

from __future__ import annotations

from typing import Literal

from latflow.app.config.flow.base import FlowSection
from latflow.app.config.theory import ALL_THEORIES


class IdentityFlow(FlowSection):
    """No parameters, so nothing is trained."""

    fits = ALL_THEORIES
    kind: Literal["identity"]
