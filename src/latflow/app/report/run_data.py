"""What a run directory holds, read with care: every part may be missing, and what cannot be read is said on the page."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from latflow.app.report.numbers import finite
from latflow.errors import FileError, LatflowError
from latflow.io.ensemble import EnsembleFile


@dataclass(frozen=True)
class FlowSamples:
    """Proposals of the flow and the independence-Metropolis chain made of them (None before the chain exists)."""

    log_q: Float[np.ndarray, " n"]
    action: Float[np.ndarray, " n"]
    measurements: dict[str, np.ndarray]
    chain_index: Int[np.ndarray, " m"] | None
    accepted: Bool[np.ndarray, " m"] | None

    @property
    def log_weight(self) -> Float[np.ndarray, " n"]:
        """-S - log q; a failed proposal (not finite) has weight zero."""
        found = -self.action - self.log_q
        return np.where(np.isfinite(found), found, -np.inf)

    def chain(self, name: str) -> Float[np.ndarray, "m 1"] | None:
        """Time series of a scalar observable along the Metropolis chain, shape (steps, 1)."""
        values = self.measurements.get(name)
        if self.chain_index is None or values is None or values.ndim != 1:
            return None
        return values[self.chain_index].astype(float).reshape(-1, 1)


@dataclass(frozen=True)
class BaselineSamples:
    """Time series of the baseline sampler, each (steps, chains, ...)."""

    measurements: dict[str, np.ndarray]

    @property
    def shape(self) -> tuple[int, int]:
        """(steps, chains)."""
        for values in self.measurements.values():
            return values.shape[0], values.shape[1]
        return 0, 0

    def chain(self, name: str) -> Float[np.ndarray, "steps chains"] | None:
        """Time series of a scalar observable, shape (steps, chains)."""
        values = self.measurements.get(name)
        return values.astype(float) if values is not None and values.ndim == 2 else None


@dataclass(frozen=True)
class RunData:
    """Everything the page is made of. `problems` are sentences about files that exist but cannot be read."""

    directory: Path
    config: dict[str, Any]
    config_text: str
    provenance: dict[str, Any]
    training: list[dict[str, Any]]
    flow: FlowSamples | None
    baseline: BaselineSamples | None
    summary: dict[str, Any]
    problems: list[str] = field(default_factory=list)

    @property
    def observables(self) -> dict[str, dict[str, Any]]:
        found = self.summary.get("observables")
        return {name: row for name, row in found.items() if isinstance(row, dict)} if isinstance(found, dict) else {}

    @property
    def baseline_kind(self) -> str | None:
        for source in (self.summary, self.config):
            kind = section(source, "baseline").get("kind")
            if kind:
                return None if kind == "none" else str(kind)
        return None

    @property
    def untrained(self) -> bool:
        """True for a run that trains nothing."""
        return section(self.config, "train").get("steps") == 0

    @property
    def flowed_charge(self) -> bool:
        """Whether the topological charge is that of links smoothed by the gradient flow."""
        return any("flow_charge" in each.measurements for each in (self.flow, self.baseline) if each is not None)

    def seconds(self, stage: str) -> float | None:
        """Wall time of `train`, `sample`, `measure` or `baseline`; of an unfinished training from its log."""
        if stage == "train" and self.untrained:
            return None  # preparing a model takes a moment, which is no training
        recorded = section(section(self.provenance, "stages"), stage).get("seconds")
        logged = self.training[-1].get("seconds") if stage == "train" and self.training else None
        known = (finite(value) for value in (section(self.summary, "seconds").get(stage), recorded, logged))
        return next((value for value in known if value is not None), None)

    def scalar_names(self) -> list[str]:
        """Observables with one number per configuration in the flow's ensemble or the baseline's, in file order."""
        names: dict[str, None] = {}
        if self.flow is not None:
            names.update(dict.fromkeys(name for name, values in self.flow.measurements.items() if values.ndim == 1))
        if self.baseline is not None:
            names.update(dict.fromkeys(name for name, values in self.baseline.measurements.items() if values.ndim == 2))
        return list(names)


def section(source: dict[str, Any], key: str) -> dict[str, Any]:
    """A sub-table of a JSON or TOML document, empty where it is missing or something else."""
    found = source.get(key)
    return found if isinstance(found, dict) else {}


def vector(values: Any) -> Float[np.ndarray, " n"] | None:
    """A list of numbers of a JSON or TOML document as an array, gaps as NaN; None for anything else."""
    if not isinstance(values, list) or any(isinstance(value, list) for value in values):
        return None
    return np.array([np.nan if (number := finite(value)) is None else number for value in values], float)


def load_run(directory: Path) -> RunData:
    """Read a run directory. Raises FileError if there is none; missing or damaged parts are left out."""
    if not directory.is_dir():
        raise FileError(f"there is no run directory {directory}", "give the directory that `latflow run` wrote")
    problems: list[str] = []

    def attempt(name: str, reader: Any, empty: Any) -> Any:
        path = directory / name
        if not path.exists():
            return empty
        try:
            return reader(path)
        except (LatflowError, OSError, ValueError, KeyError) as error:
            problems.append(f"{name} could not be read, so what it holds is left out: {error}")
            return empty

    return RunData(
        directory=directory,
        config=attempt("config.toml", lambda path: tomllib.loads(path.read_text("utf-8")), {}),
        config_text=attempt("config.toml", lambda path: path.read_text("utf-8"), ""),
        provenance=attempt("provenance.json", _json_object, {}),
        training=attempt("train.jsonl", _training_log, []),
        flow=attempt("ensemble.h5", _flow_samples, None),
        baseline=attempt("baseline.h5", _baseline_samples, None),
        summary=attempt("observables.json", _summary, {}),
        problems=problems,
    )


def _json_object(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text("utf-8"))
    if not isinstance(found, dict):
        raise ValueError("a JSON object was expected")
    return found


def _summary(path: Path) -> dict[str, Any]:
    found = _json_object(path)
    return section(section(found, "description"), "latflow") or section(found, "latflow")


def _training_log(path: Path) -> list[dict[str, Any]]:
    """Log lines in order of steps; a step repeated after a resume counts once, and a torn last line not at all."""
    steps: dict[int, dict[str, Any]] = {}
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            steps[row["step"]] = {**steps.get(row["step"], {}), **row}
    return [steps[step] for step in sorted(steps)]


def _measurements(file: EnsembleFile) -> dict[str, np.ndarray]:
    prefix = "measurements/"
    found = {name.removeprefix(prefix): file.read(name) for name in file.columns if name.startswith(prefix)}
    if "flow_charge" in found:  # the charge of four dimensions is that of the smoothest links
        found = {"q": found["flow_charge"][..., -1]} | found
    return {name: values for name, values in found.items() if values.dtype.kind in "fiub"}


def _flow_samples(path: Path) -> FlowSamples | None:
    with EnsembleFile.open(path) as file:
        n = file.n_committed
        if n == 0 or not {"log_q", "action"} <= set(file.columns):
            return None
        index = file.read("chain_index").astype(np.int64) if "chain_index" in file.columns else None
        if index is not None and (index.size == 0 or index.min() < 0 or index.max() >= n):
            index = None
        accepted = file.read("accepted").astype(bool) if "accepted" in file.columns and index is not None else None
        return FlowSamples(
            log_q=file.read("log_q").astype(float),
            action=file.read("action").astype(float),
            measurements={name: values for name, values in _measurements(file).items() if values.ndim >= 1},
            chain_index=index,
            accepted=accepted,
        )


def _baseline_samples(path: Path) -> BaselineSamples | None:
    with EnsembleFile.open(path) as file:
        if file.n_committed == 0:
            return None
        found = {name: values for name, values in _measurements(file).items() if values.ndim >= 2}
        return BaselineSamples(found) if found else None
