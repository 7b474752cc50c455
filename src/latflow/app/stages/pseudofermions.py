"""Joint models: how many pseudofermions are drawn, and how well the conditional flows fit."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from latflow.app.measurements import functions
from latflow.app.stages.context import Context
from latflow.errors import LatflowError
from latflow.io.atomic import write_json
from latflow.models import JointModel, JointTarget, spectrum_of
from latflow.samplers.proposals import draw_batch
from latflow.statistics import best_number, ess_of_draws, fit_draws
from latflow.statistics.draws import averaged

# Of the pilot run that chooses the number of draws.
_BATCHES, _DRAWS = 4, 8
_COLUMNS = ("log_q", "action", "log_det_estimates")
_MOST = 64
# Of the spectra: (rows of the matrix that is diagonalised at most, configurations).
_SPECTRA = ((512, 32), (1536, 4))


def target(context: Context, model: Any) -> Any:
    """The action proposals are weighed with, for joint models with the number of draws settled."""
    action = context.action
    if not isinstance(action, JointTarget) or not isinstance(model, JointModel):
        return action
    return dataclasses.replace(action, draws=draws(context, model))


def describe(context: Context) -> str:
    """What of [pseudofermions] decides how an ensemble is drawn, besides the model."""
    if not context.config.is_joint:
        return ""
    chosen = context.config.pseudofermions.model_dump(mode="json")
    return "".join(f" {key} {chosen[key]}" for key in ("draws", "arrangement", "tol", "max_iterations"))


def draws(context: Context, model: JointModel) -> int:
    """`pseudofermions.draws`, or what a pilot run found best, which is then kept in `draws.json`."""
    wanted = context.config.pseudofermions.draws  # type: ignore[union-attr]
    if wanted != "auto":
        return wanted
    path = context.run.draws
    if path.exists():
        try:
            return int(json.loads(path.read_text("utf-8"))["draws"])
        except (ValueError, KeyError, TypeError) as error:
            raise LatflowError(f"{path} is damaged", "delete it and run again: the pilot run is repeated") from error
    found = _pilot(context, model)
    write_json(path, found)
    context.output.note(
        f"sample    {found['draws']} pseudofermions per monomial and configuration: ESS {found['ess']:.2f} of at most "
        f"{found['ess_limit']:.2f}"
    )
    return found["draws"]


def _pilot(context: Context, model: JointModel) -> dict[str, Any]:
    size = context.config.sample.batch_size
    observables, key = functions(context.config, context.action), jax.random.fold_in(context.key("sample"), 2**31 - 1)
    seconds, rows = {}, []
    with context.progress("pilot", 2 * _BATCHES) as progress:
        for turn, number in enumerate((1, _DRAWS)):
            action = dataclasses.replace(context.action, draws=number)
            took = []
            for i in range(_BATCHES):
                begin = time.monotonic()
                drawn = draw_batch(model, action, observables, jax.random.fold_in(key, i), size)
                took.append(time.monotonic() - begin)
                if number == _DRAWS:
                    rows.append(
                        {name: np.asarray(drawn[name], np.float64) for name in ("log_q", "action", "log_det_estimates")}
                    )
                progress.update(turn * _BATCHES + i + 1)
                context.stop.check("the pilot run for the number of draws")
            seconds[number] = min(took[1:]) / size  # the first one compiles
    joined = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    estimates = joined["log_det_estimates"]
    total = -joined["action"] - joined["log_q"]
    if not np.isfinite(total).any():
        raise LatflowError(
            f"none of the {total.size} proposals of the pilot run has a finite weight",
            "raise pseudofermions.max_iterations, or give pseudofermions.draws as a number to see them in the ensemble",
        )
    rest = total - averaged(estimates, np.arange(_DRAWS))
    fit = fit_draws(ess_of_draws(rest, estimates))
    assert fit is not None
    draw = max((seconds[_DRAWS] - seconds[1]) / (_DRAWS - 1), 1e-9)
    configuration = max(seconds[1] - draw, 1e-9)
    number = best_number(fit, configuration, draw, _MOST)
    return {
        "draws": number,
        "ess": fit.ess / (1 + fit.C / number),
        "ess_limit": fit.ess,
        "C": fit.C,
        "seconds_per_configuration": configuration,
        "seconds_per_draw": draw,
    }


@eqx.filter_jit
def _spectra(model: JointModel, target: JointTarget, fields: jax.Array) -> list[Any]:
    def of_one(field: jax.Array) -> list[Any]:
        return [spectrum_of(bound, m, field) for bound, m in zip(model.maps(field), target.monomials, strict=True)]

    return jax.lax.map(of_one, jnp.moveaxis(fields, -1, 0))


def spectra(context: Context, model: Any) -> list[dict[str, Any]] | None:
    """Of each monomial, over some configurations of the model: the mean condition number of A = D~^dagger C D~ and its extreme
    eigenvalues, the share of configurations with an eigenvalue of at most 1/2 (one draw has infinite variance there), and the
    mean of E[w]^2 / E[w^2], the ESS that one draw is worth. None where the matrices are too large."""
    action = context.action
    if not isinstance(action, JointTarget) or not isinstance(model, JointModel):
        return None
    rows = action.monomials[0].rows
    number = next((number for most, number in _SPECTRA if rows <= most), None)
    if number is None:
        context.output.note(f"sample    the spectra of the conditional flows are left out: matrices of {rows} rows")
        return None
    context.output.note(f"sample    spectra of the conditional flows on {number} configurations")
    fields, _ = model.draw(jax.random.fold_in(context.key("sample"), 2**31 - 2), number)
    found = []
    for monomial, each in zip(action.monomials, _spectra(model, action, fields), strict=True):
        smallest, largest, condition, moment = (np.asarray(column, np.float64) for column in each)
        found.append(
            {
                "mu": float(monomial.mu),
                "heavier": None if monomial.heavier is None else float(monomial.heavier),
                "condition": float(condition.mean()),
                "smallest": float(smallest.min()),
                "largest": float(largest.max()),
                "infinite_variance": float(np.mean(~np.isfinite(moment))),
                "ess": float(np.mean(np.exp(-moment))),
                "configurations": int(moment.size),
            }
        )
    return found
