"""Continuous flows of gauge fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Strict

from latflow.app.config.base import Positive
from latflow.app.config.flow.base import FlowSection
from latflow.app.config.theory import GAUGE


class ContinuousFlow(FlowSection):
    """Links follow the gradient of a trainable sum of Wilson loops; `steps` integrates it, `modes` resolves its time.
    `loops` names them (all that are known if not given; a choice exists for SU(N))."""

    fits = GAUGE
    advice = "use scalar-coupling for scalar fields"
    kind: Literal["continuous"]
    steps: Positive = 16
    modes: Positive = 4
    loops: Annotated[tuple[str, ...], Strict(False)] | None = None

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super().problems(sections)
        theory = sections.get("theory")
        if self.loops is None or theory is None or theory.kind not in self.fits or min(theory.lattice, default=0) < 3:
            return
        if theory.kind != "sun":
            yield "loops", "can be chosen for SU(N) only; leave this key out"
            return
        from latflow.flows import SUNLoopTerms
        from latflow.groups import SUN
        from latflow.lattice import Geometry

        try:
            SUNLoopTerms(Geometry(theory.lattice), SUN(theory.Nc), self.loops)
        except ValueError as error:
            yield "loops", str(error)

    def lattice_problems(self, lattice: tuple[int, ...]) -> Iterator[tuple[str, str]]:
        if min(lattice, default=3) == 2:
            yield "kind", f"the loops of a continuous flow need extents of at least 3, got {list(lattice)}"
