"""What every stage works with."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from latflow.actions import AbstractAction
from latflow.app import builders
from latflow.app.analysis import Analysis
from latflow.app.builders.pseudofermions import STREAM
from latflow.app.config import Config
from latflow.app.output import Output
from latflow.app.progress import Progress
from latflow.app.run_directory import RunDirectory
from latflow.interrupt import StopRequested

# Every stream of random numbers is the run's key folded with its own constant, so stages can be redone on their own.
STREAMS = {"model": 0, "train": 1, "sample": 2, "metropolis": 3, "baseline": 4, "prior": 5, "conditionals": STREAM}


@dataclasses.dataclass
class Context:
    """One run: its configuration, directory, and the objects built from them."""

    config: Config
    run: RunDirectory
    output: Output
    stop: StopRequested
    analysis: Analysis | None = None

    @cached_property
    def action(self) -> AbstractAction:
        """What proposals are weighed with: with [pseudofermions] a `JointTarget`, otherwise the exact action."""
        return builders.build_target(self.config) or self.exact_action

    @cached_property
    def exact_action(self) -> AbstractAction:
        """The action with the exact determinant. Raises LatflowError where that does not fit into memory."""
        return builders.build_action(self.config)

    @cached_property
    def boson(self) -> AbstractAction:
        """The action without fermions, which exists on every lattice."""
        return builders.build_boson(self.config)

    @cached_property
    def theory(self) -> dict[str, Any]:
        """[theory] and [fermions] as plain JSON values: what files are labelled with."""
        bosons = {"kind": self.config.theory.kind, **self.config.theory.model_dump(mode="json", exclude_none=True)}
        if self.config.fermions.kind == "none":
            return bosons
        return {**bosons, "fermions": self.config.fermions.model_dump(mode="json", exclude_none=True)}

    def key(self, stream: str) -> PRNGKeyArray:
        return jax.random.fold_in(jax.random.key(self.config.seed), STREAMS[stream])

    def progress(self, title: str, total: int, done: int = 0, curves: tuple[str, ...] = ()) -> Progress:
        return Progress(title, total, done, curves, self.output.quiet)

    @contextmanager
    def timed(self, stage: str) -> Iterator[Timer]:
        """Adds the wall time of the block to the stage's record, however the block ends."""
        timer = Timer(self, stage)
        try:
            yield timer
        finally:
            timer.save()

    @property
    def base_summary(self) -> dict[str, Any]:
        """What every result document starts with."""
        return {"recipe": self.config.name, "theory": self.theory, "title": self.config.label}


class Timer:
    """Wall time of a stage over all sessions. Saved now and then, because a killed process cannot save it at its end."""

    _EVERY = 5.0

    def __init__(self, context: Context, stage: str):
        self._provenance = context.run.provenance
        self._stage = stage
        self._before = float(self._provenance.stage(stage).get("seconds", 0.0))
        self._start = self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._start

    def tick(self) -> None:
        if time.monotonic() - self._saved > self._EVERY:
            self.save()

    def save(self) -> None:
        self._saved = time.monotonic()
        self._provenance.update(self._stage, seconds=round(self.seconds, 3))
