"""The training loop: resumes, logs without a host synchronisation per step, checkpoints, stops cleanly."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from latflow.actions import AbstractAction
from latflow.errors import LatflowError, MismatchError
from latflow.io.checkpoints import Checkpoints
from latflow.models import AbstractPrior, JointModel, JointTarget, Model
from latflow.statistics.weights import effective_sample_size, log_z
from latflow.training.joint_losses import joint_reverse_kl, marginal_with_probes
from latflow.training.losses import Loss, forward_kl, path_reverse_kl, plain_reverse_kl, prior_variance, score_reverse_kl
from latflow.training.settings import TrainSettings
from latflow.training.step import StepInfo, TrainState, initial_state, make_step


class TrainingDiverged(LatflowError):
    """Too many steps in a row had a non-finite loss or gradient; the last good parameters are in the checkpoint."""


class TrainResult(NamedTuple):
    """`steps` done in all, `skipped` of them; `interrupted` if `should_stop` ended the run early; `seconds` in this call."""

    model: Model
    history: list[dict[str, Any]]
    steps: int
    skipped: int
    seconds: float
    resumed_from: int
    interrupted: bool


def make_loss(settings: TrainSettings, target: AbstractPrior | None = None) -> Loss:
    """The estimator named in the settings. Raises ValueError for "forward" without samples of the target."""
    if settings.estimator == "path":
        return path_reverse_kl(settings.batch_size)
    if settings.estimator == "plain":
        return plain_reverse_kl(settings.batch_size)
    if settings.estimator == "score":
        return score_reverse_kl(settings.batch_size)
    if settings.estimator == "variance":
        return prior_variance(settings.batch_size)
    if settings.estimator == "forward":
        if target is None:
            raise ValueError('the "forward" estimator needs `target`, something that samples the target theory')
        return forward_kl(settings.batch_size, target)
    raise ValueError(f'unknown estimator {settings.estimator!r}; choose "path", "plain", "score", "variance" or "forward"')


def _loss(model: Model, action: AbstractAction, settings: TrainSettings, target: AbstractPrior | None) -> Loss:
    if not isinstance(model, JointModel):
        return make_loss(settings, target)
    if model.stage != "marginal":
        return joint_reverse_kl(settings.batch_size, settings.estimator)
    loss = make_loss(settings, target)
    return marginal_with_probes(loss) if isinstance(action, JointTarget) else loss


def fit(
    model: Model,
    action: AbstractAction,
    settings: TrainSettings,
    key: PRNGKeyArray,
    *,
    directory: Path | None = None,
    on_log: Callable[[dict[str, Any]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    target: AbstractPrior | None = None,
    evaluate: Callable[[Model, int], dict[str, Any]] | None = None,
) -> TrainResult:
    """Train `model` towards exp(-action).

    A `JointModel` is trained towards a `JointTarget`, as far as its stage says; in the stage "marginal" the action may be that
    with the exact determinant, and with a `JointTarget` the gradient of the determinant is estimated with noise.
    `evaluate`, of (model, step), adds to every line of the log what a closer look at the model gives.

    With `directory`, the run resumes from the last checkpoint there and saves one every `checkpoint_every` steps and at the
    end. `on_log` gets {"step", "seconds", "seconds_per_step", "loss", "ess", "acceptance", "grad_norm", "learning_rate",
    "skipped", "coupling"} every `log_every` steps; ESS and acceptance are those of all draws since the last line (at a moving
    coupling and moving parameters: a guide, not a result). Raises TrainingDiverged, and MismatchError if the checkpoint is of
    another model.
    """
    if settings.anneal_from is not None and getattr(action, "beta", None) is None:
        raise ValueError("only actions with a coupling `beta` can be annealed")
    parameters, rest = model.partition()
    state = initial_state(parameters, settings)
    step = make_step(rest, action, settings, _loss(model, action, settings, target))
    checkpoints = Checkpoints(directory) if directory is not None else None
    start = 0
    if checkpoints is not None and checkpoints.latest() is not None:
        state = jax.tree.map(jnp.asarray, checkpoints.restore(state).tree)
        start = int(state.step)
        if start > settings.steps:
            raise MismatchError(
                f"{directory} holds {start} training steps but only {settings.steps} are asked for",
                "raise train.steps or start afresh",
            )
    # The state is donated to the step; the caller's model must keep its own buffers.
    state = jax.tree.map(jnp.copy, state)
    log = _Log(settings, on_log, start)
    interrupted = False
    for i in range(start, settings.steps):
        state, info = step(state, key)
        log.add(info)
        done = i + 1
        if done % settings.log_every == 0 or done == settings.steps:
            extra = {} if evaluate is None else evaluate(eqx.combine(state.parameters, rest), done)
            log.write(done, state, extra)
            _check(state, settings, checkpoints, done)
        if should_stop is not None and should_stop() and done < settings.steps:
            interrupted = True
        if checkpoints is not None and (done % settings.checkpoint_every == 0 or done == settings.steps or interrupted):
            checkpoints.save(done, state)
        if interrupted:
            break
    if checkpoints is not None:
        checkpoints.close()
    trained = eqx.combine(state.parameters, rest)
    return TrainResult(
        trained, log.history, int(state.step), int(state.skipped), time.monotonic() - log.began, start, interrupted
    )


def _check(state: TrainState, settings: TrainSettings, checkpoints: Checkpoints | None, done: int) -> None:
    bad = int(state.bad_run)
    if bad >= settings.max_bad_steps:
        if checkpoints is not None:
            checkpoints.close()
        raise TrainingDiverged(
            f"training diverged: the last {bad} steps up to step {done} had a non-finite loss or gradient",
            "lower train.learning_rate, set train.clip_norm, anneal the coupling, or use double precision; "
            "the last checkpoint is intact",
        )


class _Log:
    """Collects step diagnostics on the device and reads them once per line."""

    def __init__(self, settings: TrainSettings, on_log: Callable[[dict[str, Any]], None] | None, start: int):
        self.settings, self.on_log = settings, on_log
        self.rate = settings.learning_rate_schedule()
        self.pending: list[StepInfo] = []
        self.history: list[dict[str, Any]] = []
        self.began = self.last = time.monotonic()

    def add(self, info: StepInfo) -> None:
        self.pending.append(info)

    def write(self, done: int, state: TrainState, extra: dict[str, Any]) -> None:
        infos = jax.device_get(self.pending)
        self.pending = []
        now = time.monotonic()
        batches = [np.asarray(i.log_weight, np.float64) for i in infos]
        if infos[0].coupling != infos[-1].coupling and np.isfinite(infos[0].coupling):
            # Annealing: every step has a log Z of its own, which its batch estimates.
            batches = [b - log_z(b[np.isfinite(b)])[0] if np.isfinite(b).any() else b for b in batches]
        log_weight = np.concatenate(batches)
        line = {
            "step": done,
            "seconds": now - self.began,
            "seconds_per_step": (now - self.last) / len(infos),
            "loss": _finite_mean([i.loss for i in infos]),
            "ess": _finite(self._ess(log_weight)),
            "acceptance": _finite(_acceptance(log_weight)) if self.settings.estimator != "forward" else None,
            "grad_norm": _finite_mean([i.grad_norm for i in infos]),
            "learning_rate": float(np.asarray(self.rate(done - 1))),
            "skipped": int(state.skipped),
            "coupling": _finite(infos[-1].coupling),
            **extra,
        }
        self.last = now
        self.history.append(line)
        if self.on_log is not None:
            self.on_log(line)

    def _ess(self, log_weight: np.ndarray) -> float:
        log_weight = log_weight[np.isfinite(log_weight)]
        if not log_weight.size:
            return math.nan
        if self.settings.estimator == "forward":
            # With draws of p, E_q[w]^2 / E_q[w^2] = 1 / (E_p[w] E_p[1/w]).
            return 1 / (np.mean(np.exp(log_weight - log_weight.mean())) * np.mean(np.exp(log_weight.mean() - log_weight)))
        return effective_sample_size(log_weight)


def _acceptance(log_weight: np.ndarray) -> float:
    """Mean of min(1, w'/w) over neighbouring pairs of independent draws: the acceptance of the first proposal."""
    log_weight = log_weight[np.isfinite(log_weight)]
    return float(np.mean(np.exp(np.minimum(np.diff(log_weight), 0)))) if log_weight.size > 1 else math.nan


def _finite(x: Any) -> float | None:
    return float(x) if np.isfinite(x) else None


def _finite_mean(values: list[Any]) -> float | None:
    """Mean over the good steps; the bad ones are counted under "skipped"."""
    good = [float(v) for v in values if np.isfinite(v)]
    return sum(good) / len(good) if good else None
