"""[baseline]: the Markov chain the flow is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from latflow.app.config.base import NonNegative, Positive, PositiveFloat, Section


class _Chain(Section):
    chains: Positive = 8
    thermalisation: NonNegative = 200
    trajectories: Annotated[int, Field(ge=8)] = 1000
    start: Literal["hot", "cold"] = "hot"


class HMCBaseline(_Chain):
    """Hybrid Monte Carlo with trajectories of length `tau`, cut into as many steps as `target_acceptance` takes (`num_steps` is
    where the tuning starts). Each trajectory varies its length by up to `jitter`, relative: without it a nearly free mode whose
    period fits the trajectory never changes its amplitude."""

    kind: Literal["hmc"]
    tau: PositiveFloat = 1.0
    num_steps: Positive = 10
    integrator: Literal["leapfrog", "omelyan2", "omelyan4", "force-gradient"] = "omelyan2"
    target_acceptance: Annotated[float, Field(gt=0, lt=1)] = 0.8
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.25


class HeatbathBaseline(_Chain):
    """Exact heatbath of U(1) or SU(N) links; one trajectory is a heatbath sweep and `overrelaxation` overrelaxation sweeps."""

    kind: Literal["heatbath"]
    overrelaxation: NonNegative = 1

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        theory = sections.get("theory")
        if theory is None:
            return
        if theory.kind == "phi4":
            yield "kind", f'the heatbath is for gauge links, not {theory.kind}; use "hmc"'
        elif any(n % 2 for n in theory.lattice):
            yield "kind", f'the heatbath updates a checkerboard and needs even extents, got {list(theory.lattice)}; use "hmc"'


class NoBaseline(Section):
    """No comparison chain."""

    kind: Literal["none"]


Baseline = Annotated[HMCBaseline | HeatbathBaseline | NoBaseline, Field(discriminator="kind")]
