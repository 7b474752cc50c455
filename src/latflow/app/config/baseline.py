"""[baseline]: the Markov chain the flow is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, Strict

from latflow.app.config.base import NonNegative, Positive, PositiveFloat, Section
from latflow.app.config.fermions import are_dynamical


class _Chain(Section):
    chains: Positive = 8
    thermalisation: NonNegative = 200
    trajectories: Annotated[int, Field(ge=8)] = 1000
    start: Literal["hot", "cold"] = "hot"


class HMCBaseline(_Chain):
    """Hybrid Monte Carlo with trajectories of length `tau`, cut into as many steps as `target_acceptance` takes (`num_steps` is
    where the tuning starts). Each trajectory varies its length by up to `jitter`, relative: without it a nearly free mode whose
    period fits the trajectory never changes its amplitude. `target_acceptance = "none"` keeps `num_steps`.

    Fermions enter as `pseudofermions`, in pairs of flavours, with a Hasenbusch factorisation by the masses `hasenbusch`
    (ascending, of D D^dagger), or by their exact `determinant`. `gauge_steps` > 0 puts the bosonic force on a finer time scale,
    that many steps per step of the fermions. A trajectory on which a solve does not converge within `max_iterations` is
    rejected and counted."""

    kind: Literal["hmc"]
    tau: PositiveFloat = 1.0
    num_steps: Positive = 10
    integrator: Literal["leapfrog", "omelyan2", "omelyan4", "force-gradient"] = "omelyan2"
    target_acceptance: Annotated[float, Field(gt=0, lt=1)] | Literal["none"] = 0.8
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.25
    fermions: Literal["pseudofermions", "determinant"] = "pseudofermions"
    hasenbusch: Annotated[tuple[PositiveFloat, ...], Strict(False)] = ()
    gauge_steps: NonNegative = 0
    max_iterations: Positive = 2000

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        fermions, theory = sections.get("fermions"), sections.get("theory")
        if any(a >= b for a, b in pairwise(self.hasenbusch)):
            yield "hasenbusch", f"the masses must ascend, got {list(self.hasenbusch)}"
        if fermions is None or not are_dynamical(fermions) or self.fermions == "determinant":
            for key in (key for key in ("hasenbusch", "gauge_steps") if getattr(self, key)):
                yield key, "is for pseudofermions, and there are none; leave this key out"
            return
        if fermions.flavours % 2:
            yield "fermions", f'pseudofermions come in pairs of flavours, not {fermions.flavours}; use "determinant"'
        if theory is not None and any(n % 2 for n in theory.lattice):
            yield (
                "fermions",
                f"pseudofermions are even/odd preconditioned, which needs even extents, got {list(theory.lattice)}",
            )


class HeatbathBaseline(_Chain):
    """Exact heatbath of U(1) or SU(N) links; one trajectory is a heatbath sweep and `overrelaxation` overrelaxation sweeps."""

    kind: Literal["heatbath"]
    overrelaxation: NonNegative = 1

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        theory = sections.get("theory")
        if theory is None:
            return
        if are_dynamical(sections.get("fermions")):
            yield "kind", 'there is no heatbath with dynamical fermions; use "hmc"'
        elif theory.kind == "phi4":
            yield "kind", f'the heatbath is for gauge links, not {theory.kind}; use "hmc"'
        elif any(n % 2 for n in theory.lattice):
            yield "kind", f'the heatbath updates a checkerboard and needs even extents, got {list(theory.lattice)}; use "hmc"'


class NoBaseline(Section):
    """No comparison chain."""

    kind: Literal["none"]


Baseline = Annotated[HMCBaseline | HeatbathBaseline | NoBaseline, Field(discriminator="kind")]
