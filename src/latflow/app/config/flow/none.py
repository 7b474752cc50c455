"""No flow at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from latflow.app.config.flow.base import FlowSection
from latflow.app.config.theory import ALL_THEORIES


class NoFlow(FlowSection):
    """Only the baseline is run: a reference ensemble. [prior], [train] and [sample] have no meaning."""

    fits = ALL_THEORIES
    kind: Literal["none"]

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        baseline = sections.get("baseline")
        if baseline is not None and baseline.kind == "none":
            yield "kind", "without a flow and without a baseline there is nothing to do; choose one of them"
