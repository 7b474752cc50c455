"""The trained model of a run: saved as data, and never used for a theory it was not made for, except on purpose.

What is saved are the parameters: of the flow, and of the prior if it has any. An ensemble as prior stays in `prior.h5`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx

from latflow.app import builders
from latflow.app.stages import prior, tuning
from latflow.app.stages.context import Context
from latflow.errors import DamagedFileError, LatflowError, MismatchError
from latflow.io.errors import differences
from latflow.io.model_file import TENSORS, load_model, read_description, save_model
from latflow.models import JointModel, Model

_MADE_FOR = ("theory", "fermions", "pseudofermions", "prior", "flow", "precision")
# of [pseudofermions], what concerns how they are drawn and solved for, and not which densities they have
_FREE = ("draws", "arrangement", "train_draws", "regulator", "tol", "max_iterations", "marginal", "remat")


def made_for(context: Context) -> dict[str, Any]:
    """What a model depends on besides its training."""
    document = context.config.model_dump(mode="json", exclude_none=True)
    if document["fermions"]["kind"] == "none":
        document["fermions"] = None  # as in files older than fermions
    document["pseudofermions"] = _conditional(document)
    prior.prepare(context)  # a model belongs to the prior that was tuned for it
    prior_digest = tuning.digest(context)
    density = {**context.config.prior.density, **({} if prior_digest is None else {"tuned": prior_digest})}
    return {**{key: document[key] for key in _MADE_FOR}, "prior": density}


def _conditional(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the conditional flows of a configuration depend on, None where there are none."""
    found = document.get("pseudofermions") or {"kind": "none"}
    return None if found["kind"] == "none" else {key: value for key, value in found.items() if key not in _FREE}


def save(context: Context, model: Model, **facts: Any) -> None:
    head = {**made_for(context), "seed": context.config.seed, "start_from": context.config.train.start_from, **facts}
    save_model(context.run.model, _saved(model), head)


def _prior(model: Any) -> Any:
    return model.marginal.prior if isinstance(model, JointModel) else model.prior


def _saved(model: Model) -> Model:
    """The part of a model that is saved."""
    return model if model.prior.trainable else eqx.tree_at(_prior, model, None)


def _filled(directory: Path, model: Model) -> Model:
    """`model` with what is saved in `directory`."""
    found = load_model(directory, _saved(model))
    return found if model.prior.trainable else eqx.tree_at(_prior, found, model.prior, is_leaf=lambda leaf: leaf is None)


def build_untrained(context: Context) -> Model:
    return builders.build_model(context.config, prior.prepared(context))


def initial(context: Context) -> Model:
    """Where training starts: an untrained model, or the one that `train.start_from` names; a joint model may start from a flow
    of the gauge field alone, then with untrained conditional flows.

    Raises LatflowError if there is none, MismatchError if it is of another group, dimension, flow or precision,
    DamagedFileError for an altered one.
    """
    source = _source(context)  # before a prior is drawn, which may take long
    model = build_untrained(context)
    if source is None:
        return model
    context.output.note(f"train     starts from {source}")
    if isinstance(model, JointModel) and _conditional(read_description(source)) is None:
        return eqx.tree_at(lambda joint: joint.marginal, model, _filled(source, model.marginal))
    return _filled(source, model)


def _source(context: Context) -> Path | None:
    """The model directory that `train.start_from` names, found to fit; raises as `initial`."""
    source = context.config.train.start_from
    if source is None:
        return None
    directory = Path(source)
    directory = directory / "model" if (directory / "model" / TENSORS).exists() else directory
    if not (directory / TENSORS).exists():
        raise LatflowError(
            f"train.start_from: {source} holds no trained model", "name a run directory, relative to where latflow is run"
        )
    ours, theirs = context.config.model_dump(mode="json", exclude_none=True), read_description(directory)
    if _conditional(theirs) is None:  # a marginal flow, which serves any fermions
        ours = {**ours, "pseudofermions": None}
    lines = differences(_transferable(theirs), _transferable(ours))
    if lines:
        raise MismatchError(
            f"train.start_from: the model in {directory} cannot be used here: " + "; ".join(lines),
            "only couplings of the gauge or scalar field, extents and the prior may differ",
        )
    return directory


def _transferable(head: Mapping[str, Any]) -> dict[str, Any]:
    """What must agree where a model serves another volume or coupling; conditional flows are for one Dirac operator."""
    theory, flow = head.get("theory") or {}, dict(head.get("flow") or {})
    flow.pop("remat", None)  # a matter of memory
    drawn = _conditional(head)
    conditional = {} if drawn is None else {"pseudofermions": drawn, "fermions": head.get("fermions")}
    return {
        **conditional,
        "theory": {"kind": theory.get("kind"), "Nc": theory.get("Nc"), "dimensions": len(theory.get("lattice") or ())},
        "flow": flow,
        "precision": head.get("precision"),
    }


def save_untrained(context: Context) -> None:
    """Save the model as training would find it: all there is to do when nothing is to be trained."""
    save(context, initial(context), steps=0)


def exists(context: Context) -> bool:
    return (context.run.model / TENSORS).exists()


def description(context: Context) -> dict[str, Any]:
    """What the saved model says about itself. Raises MismatchError for a model of another theory or architecture,
    DamagedFileError for an altered one."""
    directory = context.run.model
    try:
        found = read_description(directory)
    except DamagedFileError as error:
        raise DamagedFileError(
            error.cause, f"delete {directory} and run again: it is written anew from the last checkpoint"
        ) from error
    lines = differences({key: found.get(key) for key in _MADE_FOR}, made_for(context))
    if lines:
        raise MismatchError(
            f"the model in {directory} was made for something else: " + "; ".join(lines),
            "use the model of this theory, or start afresh with --fresh",
        )
    return found


def load(context: Context) -> Model:
    """The trained model of this run. Raises LatflowError if it is missing, damaged, not trained to the end, or not ours."""
    config = context.config
    if not exists(context):
        raise LatflowError(f"{context.run.path} holds no trained model", f"run `latflow train {context.run.path}` first")
    found = description(context)
    if int(found.get("steps", 0)) < config.train.steps:
        raise LatflowError(
            f"the model in {context.run.model} was trained for {found.get('steps')} of {config.train.steps} steps",
            f"continue with `latflow train {context.run.path}`",
        )
    return _filled(context.run.model, build_untrained(context))


def fingerprint(directory: Path) -> str:
    """SHA-256 of the model file: an ensemble belongs to exactly one model."""
    return hashlib.sha256((directory / TENSORS).read_bytes()).hexdigest()
