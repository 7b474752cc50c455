"""What a training run is told: one frozen record, equal to the [train] section of a configuration."""

from __future__ import annotations

import dataclasses
from typing import Literal

import optax


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Optimiser, schedule, estimator and bookkeeping of `fit`.

    `estimator`: "path" (path gradient of the reverse KL, 2207.08219: unbiased, and noiseless where q = p), "plain" (the
    reparameterisation gradient of the reverse KL), "score" (its score-function gradient, 2202.01314), "variance" (half the
    variance of log w over the prior) or "forward" (maximum likelihood on samples of the target).
    `optimizer = "gauss-newton"` solves the least squares of "variance" directly, for models of few parameters; of the settings
    below only `batch_size`, `steps` and `damping` (relative, of Levenberg and Marquardt) concern it.
    `anneal_from`, `anneal_steps`: the coupling beta of the action moves linearly from `anneal_from` to its value.
    `epsilon`: that of Adam, added to the root of the second moment.
    `max_bad_steps`: consecutive steps with a non-finite loss or gradient (each is skipped) after which training stops.
    """

    steps: int = 1000
    batch_size: int = 256
    optimizer: Literal["adam", "adamw", "gauss-newton"] = "adam"
    damping: float = 1e-3
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    decay_factor: float = 0.5
    decay_every: int = 1000
    clip_norm: float | None = None
    clip_value: float | None = None
    estimator: Literal["path", "plain", "score", "variance", "forward"] = "path"
    anneal_from: float | None = None
    anneal_steps: int = 0
    log_every: int = 10
    checkpoint_every: int = 100
    max_bad_steps: int = 20
    epsilon: float = 1e-8

    def learning_rate_schedule(self) -> optax.Schedule:
        """Linear warm-up from zero, then constant, cosine decay to zero, or a step decay by `decay_factor`."""
        rest = max(self.steps - self.warmup_steps, 1)
        if self.schedule == "cosine":
            main = optax.cosine_decay_schedule(self.learning_rate, rest)
        elif self.schedule == "step":
            main = optax.exponential_decay(self.learning_rate, self.decay_every, self.decay_factor, staircase=True)
        else:
            main = optax.constant_schedule(self.learning_rate)
        if not self.warmup_steps:
            return main
        warmup = optax.linear_schedule(0.0, self.learning_rate, self.warmup_steps)
        return optax.join_schedules([warmup, main], [self.warmup_steps])

    def optimiser(self) -> optax.GradientTransformation:
        """Clipping by norm, clipping by value, then Adam or AdamW."""
        parts = []
        if self.clip_norm is not None:
            parts.append(optax.clip_by_global_norm(self.clip_norm))
        if self.clip_value is not None:
            parts.append(optax.clip(self.clip_value))
        rate = self.learning_rate_schedule()
        parts.append(self._adam(rate))
        return optax.chain(*parts)

    def _adam(self, rate: optax.Schedule) -> optax.GradientTransformation:
        if self.optimizer == "adam":
            return optax.adam(rate, eps=self.epsilon)
        return optax.adamw(rate, eps=self.epsilon, weight_decay=self.weight_decay)
