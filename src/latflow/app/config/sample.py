"""[sample] and [measure]: how many configurations, and what is measured on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, Strict

from latflow.app.config.base import Positive, Section


class Sample(Section):
    """Proposals of the flow, made in batches; the Metropolis chain runs over all of them."""

    num_samples: Annotated[int, Field(ge=16)] = 16384
    batch_size: Positive = 1024
    save_configurations: bool = False

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if self.num_samples % min(self.batch_size, self.num_samples):
            yield "num_samples", f"must be a multiple of sample.batch_size = {self.batch_size}, got {self.num_samples}"


Loop = Annotated[tuple[Positive, Positive], Strict(False)]


class Measure(Section):
    """Observables by name (all that apply to the theory if not given) and the R x T of the Wilson loops
    (if not given, those up to 3 x 3 and half the lattice)."""

    observables: Annotated[tuple[str, ...], Strict(False)] | None = None
    wilson_loops: Annotated[tuple[Loop, ...], Strict(False)] | None = None

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        theory = sections.get("theory")
        if theory is None or self.wilson_loops is None:
            return
        if theory.kind == "phi4":
            yield "wilson_loops", "a scalar theory has no Wilson loops; leave this key out"
            return
        large = [list(loop) for loop in self.wilson_loops if max(loop) > min(theory.lattice)]
        if large:
            yield "wilson_loops", f"{large} do not fit into the lattice {list(theory.lattice)}"
