"""[sample] and [measure]: how many configurations, and what is measured on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, Strict

from latflow.app.config.base import Positive, PositiveFloat, Section

if TYPE_CHECKING:  # jax is not loaded to read a configuration
    from latflow.observables import GradientFlow, SmearedLoops


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
_MOST_STEPS = 100_000  # of the gradient flow: more are a mistake
Times = Annotated[tuple[float, ...], Strict(False)]


class Measure(Section):
    """Observables by name (all that apply to the theory if not given) and the R x T of the Wilson loops
    (if not given, those up to 3 x 3 and half the lattice).

    `flow_times` (increasing, lattice units): t^2 E(t) and, for SU(N) in four dimensions, the topological charge at these times
    of the gradient flow, integrated with steps of at most `flow_step`, or adaptively to an error of `flow_tolerance`.
    `smearing`: the Wilson loops also from links smeared `smearing_steps` times with the weight `smearing_alpha`, those in
    space alone with `smearing_spatial`.
    With fermions, `pion` chooses the sources of pion correlator and condensate: "exact" (all sites, dense, O(V^3)), "point" and
    "time-slice" (stochastic) of which there are `pion_sources`, or "none"; `det_sign` also measures the sign of det D (always
    done for an odd number of flavours)."""

    observables: Annotated[tuple[str, ...], Strict(False)] | None = None
    wilson_loops: Annotated[tuple[Loop, ...], Strict(False)] | None = None
    flow_times: Times | None = None
    flow_step: PositiveFloat = 0.02
    flow_tolerance: PositiveFloat | None = None
    smearing: Literal["ape", "stout"] | None = None
    smearing_alpha: PositiveFloat | None = None
    smearing_steps: Positive | None = None
    smearing_spatial: bool = False
    pion: Literal["exact", "point", "time-slice", "none"] = "point"
    pion_sources: Positive = 1
    det_sign: bool = False

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from self._unfinished()
        theory = sections.get("theory")
        if theory is None:
            return
        if min(theory.lattice, default=0) >= 1:
            yield from self._unmeasurable(theory)
        if self.wilson_loops is None:
            return
        if theory.kind == "phi4":
            yield "wilson_loops", "a scalar theory has no Wilson loops; leave this key out"
            return
        large = [list(loop) for loop in self.wilson_loops if max(loop) > min(theory.lattice)]
        if large:
            yield "wilson_loops", f"{large} do not fit into the lattice {list(theory.lattice)}"

    def _unfinished(self) -> Iterator[tuple[str, str]]:
        """What is wrong with [measure] by itself."""
        if self.flow_times is None:
            if self.flow_tolerance is not None:
                yield "flow_tolerance", "needs flow_times, the times at which to measure"
        elif not self.flow_times or not all(a < b for a, b in pairwise((0.0, *self.flow_times))):
            yield "flow_times", f"must be positive and increase, and there must be one at least, got {list(self.flow_times)}"
        elif self.flow_times[-1] > _MOST_STEPS * self.flow_step:
            yield (
                "flow_step",
                f"{self.flow_step:g} makes more than {_MOST_STEPS} steps up to the flow time {self.flow_times[-1]:g}",
            )
        given = {
            "smearing_alpha": self.smearing_alpha is not None,
            "smearing_steps": self.smearing_steps is not None,
            "smearing_spatial": self.smearing_spatial,
        }
        if self.smearing is None:
            for key in (key for key, is_given in given.items() if is_given):
                yield key, 'needs smearing = "ape" or "stout"'
            return
        missing = [key for key in ("smearing_alpha", "smearing_steps") if not given[key]]
        if missing:
            yield "smearing", f"needs {' and '.join(missing)}"
        elif self.smearing == "ape" and (self.smearing_alpha or 0) >= 1:
            yield "smearing_alpha", f"must be below 1 for APE smearing, got {self.smearing_alpha:g}"

    def _unmeasurable(self, theory: Any) -> Iterator[tuple[str, str]]:
        """What does not exist for this theory."""
        from latflow.groups import SUN, U1, RealLine
        from latflow.lattice import Geometry
        from latflow.observables import find

        group, geometry = {"u1": U1, "phi4": RealLine}.get(theory.kind, lambda: SUN(theory.Nc))(), Geometry(theory.lattice)
        for name in self.observables or ():
            try:
                observable = None if name == "action_density" else find(name)
            except ValueError as error:
                yield "observables", str(error)
                continue
            if observable is not None and not observable.applies(group, geometry):
                yield "observables", f"{name} exists for {observable.condition}, not for this theory"
        if any(self._unfinished()):
            return
        if self.smearing and not self._has_loops():
            yield "smearing", "is for Wilson loops, and none is measured; name some in wilson_loops"
        for key, family in (("flow_times", self.gradient_flow()), ("smearing", self.smeared_loops(()))):
            if family is not None and (reason := family.refusal(group, geometry)):
                yield key, f"{reason}; leave this key out"

    def _has_loops(self) -> bool:
        named = any(name.startswith("wilson_loop_") for name in self.observables or ())
        return named or bool(self.wilson_loops) or (self.observables is None and self.wilson_loops is None)

    def gradient_flow(self) -> GradientFlow | None:
        """What is measured along the gradient flow."""
        from latflow.observables import GradientFlow

        if self.flow_times is None:
            return None
        return GradientFlow(self.flow_times, self.flow_step, self.flow_tolerance)

    def smeared_loops(self, loops: tuple[tuple[int, int], ...]) -> SmearedLoops | None:
        """Those R x T of smeared links."""
        from latflow.observables import SmearedLoops
        from latflow.observables.smearing import Smearing

        if self.smearing is None or self.smearing_alpha is None or self.smearing_steps is None:
            return None
        return SmearedLoops(Smearing(self.smearing, self.smearing_alpha, self.smearing_steps, self.smearing_spatial), loops)
