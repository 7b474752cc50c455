"""[train]: how the flow is fitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from latflow.app.config.base import NonNegative, NonNegativeFloat, Positive, PositiveFloat, Section
from latflow.app.config.fermions import are_dynamical


class Train(Section):
    """Optimiser, schedule, estimator, annealing, and how often to log and to checkpoint.

    `start_from` names a run directory, or a model directory, whose flow is the start instead of an untrained one; it may have
    been trained on another lattice or for another coupling, and with `steps = 0` it is used as it is. The estimator "variance"
    minimises the variance of log w over draws of the prior; `optimizer = "gauss-newton"` solves that least-squares problem in a
    few steps, for flows of few parameters such as "continuous" and "residual-sweeps"; `damping` is relative to the diagonal of
    its normal equations. `stage` says what of a joint model with [pseudofermions] moves: everything, or the flow of the gauge
    field ("marginal") or those of the pseudofermions ("conditional") while the other stays as it is. With `evaluate` > 0 every
    line of the log has the ESS of that many fresh configurations, with one pseudofermion per monomial where there are any, then
    also that with the exact determinant.
    `epsilon` is that of Adam."""

    steps: NonNegative = 1000
    stage: Literal["joint", "marginal", "conditional"] = "joint"
    start_from: str | None = None
    batch_size: Annotated[int, Field(ge=2)] = 256
    optimizer: Literal["adam", "adamw", "gauss-newton"] = "adam"
    damping: PositiveFloat = 1e-3
    learning_rate: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 1e-4
    warmup_steps: NonNegative = 0
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    decay_factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    decay_every: Positive = 1000
    clip_norm: PositiveFloat | None = None
    clip_value: PositiveFloat | None = None
    estimator: Literal["path", "plain", "score", "variance", "forward"] = "path"
    anneal_from: NonNegativeFloat | None = None
    anneal_steps: NonNegative = 0
    log_every: Positive = 10
    checkpoint_every: Positive = 100
    max_bad_steps: Positive = 20
    evaluate: Annotated[int, Field(ge=0)] = 0
    epsilon: PositiveFloat = 1e-8

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if self.anneal_steps and self.anneal_from is None:
            yield "anneal_steps", "needs anneal_from, the coupling at which annealing starts"
        if self.anneal_from is not None and not self.anneal_steps:
            yield "anneal_from", "needs anneal_steps > 0, the number of steps over which the coupling moves to its final value"
        if self.steps and self.warmup_steps >= self.steps:
            yield "warmup_steps", f"the warm-up ({self.warmup_steps}) must be shorter than the training ({self.steps} steps)"
        if self.steps and self.anneal_steps > self.steps:
            yield "anneal_steps", f"the annealing ({self.anneal_steps}) must end within the training ({self.steps} steps)"
        theory, flow, prior = sections.get("theory"), sections.get("flow"), sections.get("prior")
        if self.optimizer == "gauss-newton" and self.estimator != "variance":
            yield "optimizer", f'"gauss-newton" is for estimator = "variance", not "{self.estimator}"'
        if self.estimator == "variance" and prior is not None and prior.kind == "free":
            yield "estimator", '"variance" keeps the draws of the prior fixed and would not train the free field; use "path"'
        if self.anneal_from is not None and theory is not None and theory.kind == "phi4":
            yield "anneal_from", "only the coupling beta of gauge theories can be annealed"
        if self.anneal_from is not None and are_dynamical(sections.get("fermions")):
            yield "anneal_from", "the coupling of a theory with fermions cannot be annealed; start from the exact prior"
        if self.anneal_from is not None and self.estimator == "forward":
            yield "anneal_from", "the exact samples of the forward estimator are those of the final coupling; leave this out"
        solved = theory is None or (theory.has_exact_samples and not are_dynamical(sections.get("fermions")))
        if self.estimator == "forward" and not solved:
            yield (
                "estimator",
                '"forward" trains on exact samples, which exist for U(1), SU(2) and SU(3) in two dimensions; '
                'use "path", "plain" or "score"',
            )
        drawn = sections.get("pseudofermions")
        joint, trains = drawn is not None and drawn.kind != "none", drawn is not None and drawn.trains
        if not joint and self.stage != "joint":
            yield "stage", "is for joint models, and there are no [pseudofermions]; leave this key out"
        if joint and self.steps and self.stage != "marginal" and self.estimator not in ("path", "plain"):
            yield "estimator", f'a joint model is trained with "path" or "plain", not "{self.estimator}"'
        if flow is not None and flow.kind == "identity" and not trains and self.start_from is not None:
            yield "start_from", "the identity flow has no parameters to start from; leave this out"
        if flow is not None and flow.kind == "identity" and self.steps:
            if not trains:
                yield "steps", f"the identity flow has nothing to train; set steps = 0 instead of {self.steps}"
            elif self.stage == "marginal":
                yield "stage", 'the identity flow has nothing to train; use "conditional"'
        if drawn is not None and joint and not trains and self.stage == "conditional" and self.steps:
            yield "stage", f'"{drawn.kind}" pseudofermions have nothing to train; use "marginal"'
