"""The exact prior of a theory with fermions: its coupling, and the filter that discards what the determinant would.

Both are found with configurations of the prior whose determinants are computed, `prior.h5`, and written to `prior.json`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import equinox as eqx
import jax
import numpy as np

from latflow.actions import AbstractAction, TooLarge
from latflow.app import builders
from latflow.app.config.prior import ExactPrior
from latflow.app.stages.context import Context
from latflow.errors import LatflowError
from latflow.flows import Identity
from latflow.io.atomic import write_text
from latflow.io.ensemble import EnsembleFile
from latflow.loops.features import features_of
from latflow.models import Filter, FlowModel, ResampledPrior, best_beta, learn_filter, measured
from latflow.samplers import draw_proposals, log_weights

# Configurations per round of the search for the coupling, and rounds.
_ROUND, _ROUNDS = 512, 3
_FRESH = 8192  # draws at least from which the share that the filter keeps is measured: this is the error of log Z
_CLOSE = 0.02  # relative; nearer than this the ESS is flat


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What `prior.json` holds: the coupling, the filter (None: none learned), and estimates of the ESS before any flow."""

    beta: float
    filter: Filter | None
    facts: dict[str, Any]


def tuned(context: Context) -> Tuned:
    """The tuned prior of a run, prepared first if need be."""
    config, path = context.config.prior, context.run.tuned_prior
    assert isinstance(config, ExactPrior)
    if path.exists():
        return _read(context)
    context.run.provenance.update("prior", complete=False)
    try:
        context.exact_action  # noqa: B018  (refused where the matrix is too large)
    except TooLarge as error:
        raise LatflowError(
            f"the prior is tuned with exact determinants, and {error.cause}",
            "give prior.beta as a number and leave prior.learn at 0",
        ) from error
    with context.timed("prior") as timer:
        beta, facts = _coupling(context, config)
        timer.save()
        filter: Filter | None = None
        if config.learn:
            filter, learned = _learn(context, config, beta, timer)
            facts |= learned
        document = {
            "beta": beta,
            "filter": None if filter is None else {**filter._asdict(), "weights": filter.weights.tolist()},
            "facts": facts,
        }
        write_text(path, json.dumps(document, indent=1))
    context.run.provenance.update("prior", complete=True, beta=beta, **facts)
    return _read(context)


def digest(context: Context) -> str | None:
    """SHA-256 of the tuned prior, None where there is none."""
    path = context.run.tuned_prior
    if not (isinstance(context.config.prior, ExactPrior) and context.config.prior.is_tuned and path.exists()):
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()


def facts(context: Context) -> dict[str, Any] | None:
    """What an analysis and a report say about the tuned prior, None where there is none."""
    if digest(context) is None:
        return None
    found = _read(context)
    error = 0.0 if found.filter is None else found.filter.log_acceptance_error
    return {"beta": found.beta, **found.facts, "log_acceptance_error": error}


def _read(context: Context) -> Tuned:
    path = context.run.tuned_prior
    try:
        document = json.loads(path.read_text("utf-8"))
        raw = document["filter"]
        filter = None if raw is None else Filter(**{**raw, "weights": np.asarray(raw["weights"], np.float64)})
        return Tuned(float(document["beta"]), filter, dict(document["facts"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LatflowError(
            f"{path} is damaged", "delete it and run again: it is made anew from prior.h5, with the same result"
        ) from error


def _guess(context: Context) -> float:
    """Where the search begins: to leading order in the hopping expansion two-dimensional Wilson fermions add 8 Nf Nc kappa^4 to
    beta; higher orders add about as much again."""
    fermions = context.config.fermions
    return float(context.config.theory.beta + 16 * fermions.flavours * context.boson.group.Nc * fermions.kappa**4)  # type: ignore[union-attr]


def _coupling(context: Context, config: ExactPrior) -> tuple[float, dict[str, Any]]:
    """(the coupling of the prior, what was found on the way)."""
    if config.beta != "auto":
        beta = config.beta if config.beta is not None else context.config.theory.beta  # type: ignore[union-attr]
        return float(beta), {}
    key, batch = jax.random.fold_in(context.key("prior"), 0), 64
    beta = _guess(context)
    rounds = 0
    with context.progress("prior", _ROUNDS * _ROUND) as progress:
        for number in range(_ROUNDS):
            rounds += 1
            plaquettes, log_weight = [], []
            model = FlowModel(builders.exact_prior(context.config, beta), Identity())
            for i in range(_ROUND // batch):
                drawn = _weigh(model, context.exact_action, jax.random.fold_in(key, number * _ROUND + i), batch)
                plaquettes.append(np.asarray(drawn[0], np.float64))
                log_weight.append(np.asarray(drawn[1], np.float64))
                progress.update(number * _ROUND + (i + 1) * batch)
                context.stop.check("the search for the coupling of the prior")
            found = best_beta(beta, np.concatenate(plaquettes), np.concatenate(log_weight))
            close = abs(found / beta - 1) < _CLOSE
            beta = found
            if close:
                break
    context.output.note(f"prior     the exact prior is closest at beta = {beta:.4g}")
    return beta, {"rounds": rounds}


@eqx.filter_jit
def _weigh(model: FlowModel, action: AbstractAction, key: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """(sums of Re Tr P / Nc, log weights) of draws of a pure gauge prior."""
    from latflow.observables import find

    fields, log_q = model.draw(key, size)
    plaquette = find("plaquette")
    geometry = action.geometry
    mean = jax.vmap(lambda x: plaquette.evaluate(action.group, geometry, x), in_axes=-1)(fields)
    return mean * geometry.volume * len(geometry.planes), -jax.vmap(action, in_axes=-1)(fields) - log_q


def _learn(context: Context, config: ExactPrior, beta: float, timer: Any) -> tuple[Filter, dict[str, Any]]:
    """The filter learned from `config.learn` configurations, streamed to `prior.h5`, and its estimated quality."""
    run = context.run
    features = features_of(context.boson.group, context.boson.geometry)
    model = FlowModel(builders.exact_prior(context.config, beta), Identity())
    with context.progress("prior", config.learn) as progress:

        def on_progress(done: int, total: int) -> None:
            progress.update(done)
            timer.tick()

        draw_proposals(
            model,
            context.exact_action,
            {"features": features},
            run.prior,
            jax.random.fold_in(context.key("prior"), 1),
            config.learn,
            min(context.config.sample.batch_size, config.learn),
            theory={**context.theory, "prior_beta": beta},
            on_progress=on_progress,
            stop=context.stop,
        )
    with EnsembleFile.open(run.prior) as file:
        found = file.read("measurements/features"), log_weights(file)
    filter, quality = learn_filter(*found, config.acceptance)
    resampled = builders.exact_prior(context.config, beta, filter)
    assert isinstance(resampled, ResampledPrior)
    fresh = jax.random.fold_in(context.key("prior"), 2)
    size = max(2 * config.learn, _FRESH)
    with context.progress("prior", size) as progress:

        def on_fresh(done: int) -> None:
            progress.update(done)
            timer.tick()
            context.stop.check(f"{done} of {size} draws of the prior that tell how many are kept")

        filter = measured(resampled, filter, fresh, size, on_fresh)
    context.output.note(
        f"prior     ESS {quality['ess_before']:.2f} as it is, {quality['ess']:.2f} of the {quality['acceptance']:.0%} that the "
        "learned filter keeps"
    )
    return filter, quality
