"""[sample] and [measure]: how many configurations, and what is measured on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, Strict

from latflow.app.config.base import Positive, PositiveFloat, Section


class Sample(Section):
    """Proposals of the flow, made in batches; the Metropolis chain runs over all of them.

    `max_audit` (nats): how far log q of a numerically integrated flow may differ between forward and backward before it is
    refused (a large number forces it); `refine`: it is sampled with that many times the integration steps of training."""

    num_samples: Annotated[int, Field(ge=16)] = 16384
    batch_size: Positive = 1024
    save_configurations: bool = False
    max_audit: PositiveFloat = 1e-2
    refine: Positive = 1


Loop = Annotated[tuple[Positive, Positive], Strict(False)]


class Measure(Section):
    """Observables by name (all that apply to the theory if not given) and the R x T of the Wilson loops
    (if not given, those up to 3 x 3 and half the lattice)."""

    observables: Annotated[tuple[str, ...], Strict(False)] | None = None
    wilson_loops: Annotated[tuple[Loop, ...], Strict(False)] | None = None

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        theory = sections.get("theory")
        if theory is None:
            return
        yield from self._unmeasurable(theory)
        if self.wilson_loops is None:
            return
        if theory.kind == "phi4":
            yield "wilson_loops", "a scalar theory has no Wilson loops; leave this key out"
            return
        large = [list(loop) for loop in self.wilson_loops if max(loop) > min(theory.lattice)]
        if large:
            yield "wilson_loops", f"{large} do not fit into the lattice {list(theory.lattice)}"

    def _unmeasurable(self, theory: Any) -> Iterator[tuple[str, str]]:
        if self.observables is None or min(theory.lattice, default=0) < 1:
            return
        from latflow.groups import SUN, U1, RealLine
        from latflow.lattice import Geometry
        from latflow.observables import find

        group = {"u1": U1, "phi4": RealLine}.get(theory.kind, lambda: SUN(theory.Nc))()
        for name in self.observables:
            try:
                observable = None if name == "action_density" else find(name)
            except ValueError as error:
                yield "observables", str(error)
                continue
            if observable is not None and not observable.applies(group, Geometry(theory.lattice)):
                yield "observables", f"{name} exists for {observable.condition}, not for this theory"
