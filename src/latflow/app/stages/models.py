"""The trained model of a run: saved as data, and never used for a theory it was not made for."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from latflow.app import build
from latflow.app.stages.context import Context
from latflow.errors import DamagedFileError, LatflowError, MismatchError
from latflow.io.errors import differences
from latflow.io.model_file import TENSORS, load_model, read_description, save_model
from latflow.models import FlowModel

_MADE_FOR = ("theory", "prior", "flow", "precision")


def made_for(context: Context) -> dict[str, Any]:
    """What a model depends on besides its training."""
    document = context.config.model_dump(mode="json", exclude_none=True)
    return {key: document[key] for key in _MADE_FOR}


def save(context: Context, model: FlowModel, **facts: Any) -> None:
    save_model(context.run.model, model, {**made_for(context), "seed": context.config.seed, **facts})


def save_untrained(context: Context) -> None:
    """Save the model as it is built: all there is to do when nothing is to be trained."""
    save(context, build.build_model(context.config, context.action), steps=0)


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


def load(context: Context) -> FlowModel:
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
    return load_model(context.run.model, build.build_model(config, context.action))


def fingerprint(directory: Path) -> str:
    """SHA-256 of the model file: an ensemble belongs to exactly one model."""
    return hashlib.sha256((directory / TENSORS).read_bytes()).hexdigest()
