"""An exact ensemble from a flow: proposals are drawn and measured in batches and streamed to a file together with the chain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Int, PRNGKeyArray

from latflow import interrupt
from latflow.actions.base import AbstractAction
from latflow.errors import LatflowError
from latflow.flows import needs_audit
from latflow.interrupt import StopRequested
from latflow.io.ensemble import EnsembleFile
from latflow.models import JointModel, JointTarget, Model, log_estimate, noise_key, weigh
from latflow.samplers.measured import Observable, measured
from latflow.samplers.metropolis import Position, independence_metropolis

Progress = Callable[[int, int], None]
_DOUBLE = (
    "log_q",
    "action",
    "log_weight_prior",
    "marginal_action",
    "log_det_estimates",
)  # float64 in the file, whatever JAX computes in


class ProposalSummary(NamedTuple):
    """Of the whole file: rows, fraction of accepted proposals, proposals whose weight is zero or not finite."""

    num_samples: int
    acceptance: float
    unusable: int


def draw_proposals(
    model: Model,
    action: AbstractAction,
    observables: Mapping[str, Observable],
    path: Path | str,
    key: PRNGKeyArray,
    num_samples: int,
    batch_size: int,
    *,
    theory: Any = None,
    metadata: Any = None,
    save_configurations: bool = False,
    max_audit: float | None = None,
    marginal: AbstractAction | None = None,
    on_progress: Progress | None = None,
    stop: StopRequested | None = None,
) -> ProposalSummary:
    """Draw proposals until the ensemble file at `path` holds `num_samples`, and run independence Metropolis over them.

    Columns, one row per proposal: `log_q` and `action` (float64), `measurements/<name>` for each of `observables` (functions
    of one configuration; of one that returns {name: value}, for each of its entries), `configurations` if wanted, and the
    chain: `chain_index` (row of the configuration at which the chain is) and `accepted`. A model whose density is integrated
    numerically adds `audit`, |log q forward - log q backward| in nats; a batch in which it exceeds `max_audit` is refused
    (None: never). The file is continued if it exists; batch b depends on (key, b) only, so an interrupted, a continued and an
    uninterrupted file agree bit for bit. `theory` and `metadata` are stored as JSON. A prior that holds an ensemble adds
    `log_weight_prior`, -S - log r of its configurations: what reweighting without the flow would use.

    For a joint model and its `JointTarget` as `action` the column `action` is S_b - sum_i log (estimate of det C_i^-1), so that
    all that follows is pseudo-marginal: the estimate stays with its configuration. `log_det_estimates` (monomials, draws) are
    those of the single draws and `iterations` (monomials,) the conjugate gradient iterations of the slowest. With `marginal`,
    the action with the exact determinant, `marginal_action` tells what many draws would come to.

    Raises MismatchError if the file is of another theory, key, batch size or set of columns, Interrupted (after saving) if
    `stop` is set, FileError for problems with the file, LatflowError if the model proposes nothing usable or fails its audit.
    """
    if model.prior.limit is not None and num_samples > model.prior.limit:
        raise LatflowError(
            f"{num_samples} samples are wanted, but the prior's ensemble has {model.prior.limit} configurations",
            "each may be used once: enlarge that ensemble, or ask for fewer samples",
        )
    draw_key, accept_key = jax.random.split(key)
    draw = eqx.Partial(_draw, model, action, dict(observables), marginal, size=batch_size, with_fields=save_configurations)
    shapes = eqx.filter_eval_shape(draw, draw_key, jnp.zeros((), jnp.int32))
    columns = {name: (leaf.shape[1:], leaf.dtype) for name, leaf in shapes.items()}
    columns |= {name: (shapes[name].shape[1:], np.float64) for name in _DOUBLE if name in shapes}
    columns |= {"chain_index": ((), np.int64), "accepted": ((), bool)}
    settings = {"batch_size": batch_size, "key": np.asarray(jax.random.key_data(key)).tolist()}
    with EnsembleFile.open_or_create(
        path, "flow", theory, columns, settings=settings, metadata=metadata, capacity=num_samples
    ) as file:
        position = _position(file)
        while (done := file.n_committed) < num_samples:
            batch, skip = divmod(done, batch_size)
            drawn = draw(jax.random.fold_in(draw_key, batch), jnp.asarray(batch * batch_size, jnp.int32))
            rows = {name: np.asarray(value)[skip : skip + num_samples - done] for name, value in drawn.items()}
            rows |= {name: rows[name].astype(np.float64) for name in _DOUBLE if name in rows}
            log_weight = -rows["action"] - rows["log_q"]
            if max_audit is not None and "audit" in rows:
                _require_audit(rows["audit"], max_audit)
            chain = independence_metropolis(accept_key, jnp.asarray(log_weight), position)
            rows["chain_index"] = np.asarray(chain.chain_index, np.int64)
            rows["accepted"] = np.asarray(chain.accepted)
            if batch == 0 and not np.isfinite(log_weight).any():
                failed = "log_det_estimates" in rows and not np.isfinite(rows["log_det_estimates"]).any((1, 2)).any()
                raise LatflowError(
                    f"none of the first {len(log_weight)} proposals has a finite weight"
                    + (", since no solve for pseudofermions converged" if failed else ""),
                    "raise max_iterations" if failed else "train the model longer or anew",
                )
            file.append(rows)
            position = _position(file)
            done = file.n_committed
            if on_progress is not None:
                on_progress(done, num_samples)
            interrupt.check(stop, f"{done} of {num_samples} samples")
        unusable = int((~np.isfinite(log_weights(file))).sum())
        return ProposalSummary(file.n_committed, float(file.read("accepted").mean()), unusable)


def _require_audit(audit: np.ndarray, limit: float) -> None:
    worst = float(np.max(audit, initial=0.0))
    if not worst <= limit:  # a NaN fails too
        raise LatflowError(
            f"log q on the way to a configuration and on the way back differ by {worst:.2g} nats, more than {limit:g}: "
            "the flow is not integrated accurately, and its weights would be wrong",
            "raise sample.refine or flow.steps, or accept the error by sample.max_audit",
        )


def log_weights(file: EnsembleFile) -> np.ndarray:
    """-S - log q of every proposal, float64 (n,)."""
    return -file.read("action") - file.read("log_q")


def weigh_proposals(
    model: Model,
    action: AbstractAction,
    key: PRNGKeyArray,
    size: int,
    *,
    marginal: AbstractAction | None = None,
    batch_size: int = 256,
) -> dict[str, Float[np.ndarray, " n"]]:
    """Log weights (float64) of at least `size` proposals that are not kept: {"joint": ...} of a joint model with "marginal"
    those with the exact determinant if that action is given, {"marginal": ...} alone of another model."""
    batch, rows = min(size, batch_size), []
    for i in range(-(-size // batch)):
        rows.append(_draw(model, action, {}, marginal, jax.random.fold_in(key, i), None, size=batch, with_fields=False))
    joined = {name: np.concatenate([np.asarray(row[name], np.float64) for row in rows]) for name in rows[0]}
    found = {"joint" if isinstance(model, JointModel) else "marginal": -joined["action"] - joined["log_q"]}
    return found if marginal is None else {**found, "marginal": -joined["marginal_action"] - joined["log_q"]}


def draw_batch(
    model: Model,
    action: AbstractAction,
    observables: Mapping[str, Observable],
    key: PRNGKeyArray,
    size: int,
) -> dict[str, Array]:
    """The columns of one batch, as `draw_proposals` writes them, computed to the end; from a stored prior at random."""
    found = _draw(model, action, dict(observables), None, key, None, size=size, with_fields=False)
    return jax.block_until_ready(found)


@eqx.filter_jit
def _draw(
    model: Model,
    action: AbstractAction,
    observables: dict[str, Observable],
    marginal: AbstractAction | None,
    key: PRNGKeyArray,
    start: Int[Array, ""] | None,
    *,
    size: int,
    with_fields: bool,
) -> dict[str, Array]:
    fields, log_q = model.draw(key, size, start=start)
    audit = {"audit": jnp.abs(log_q - model.log_q_of(fields))} if needs_audit(model.bijection) else {}
    out = {**audit, "log_q": log_q, **_weighed(model, action, key, fields)}
    if marginal is not None:
        out["marginal_action"] = jax.vmap(marginal, in_axes=-1)(fields)
    if model.prior.limit is not None:
        stored, log_r = model.prior.draw(key, size, start)
        out["log_weight_prior"] = -_weighed(model, action, key, stored)["action"] - log_r
    out |= measured(observables, fields)
    return {**out, "configurations": jnp.moveaxis(fields, -1, 0)} if with_fields else out


def _weighed(model: Model, action: AbstractAction, key: PRNGKeyArray, fields: Inexact[Array, "..."]) -> dict[str, Array]:
    """The action of a batch, axis last; with pseudofermions drawn for it, if the model is a joint one."""
    if not isinstance(model, JointModel) or not isinstance(action, JointTarget):
        return {"action": jax.vmap(action, in_axes=-1)(fields)}
    keys = jax.random.split(noise_key(key), fields.shape[-1])
    found = jax.vmap(lambda key, field: weigh(model, action, key, field), in_axes=(0, -1))(keys, fields)
    boson = jax.vmap(action.without_pseudofermions, in_axes=-1)(fields)
    return {
        "action": boson - jax.vmap(log_estimate)(found.log_weight),
        "log_det_estimates": found.log_weight,
        "iterations": jnp.max(found.iterations, axis=2),
    }


def _position(file: EnsembleFile) -> Position:
    """Where the chain in the file stands."""
    n = file.n_committed
    if n == 0:
        return Position.start()
    index = int(file.read("chain_index", n - 1)[0])
    log_weight = -file.read("action", index, index + 1)[0] - file.read("log_q", index, index + 1)[0]
    return Position(jnp.asarray(index), jnp.asarray(log_weight), jnp.asarray(n))
