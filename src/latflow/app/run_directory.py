"""One directory per run. A stage that is complete there is not done again, and data of another run are never touched."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from latflow.app.config import Config, ConfigError, dumps, read
from latflow.app.provenance import Provenance
from latflow.errors import LatflowError, MismatchError
from latflow.io.atomic import write_text
from latflow.io.run_lock import RunLock

# May change at any time: they do not alter a single number.
_FREE = {
    "name",
    "description",
    "expected_time",
    "device",
    "sample.max_audit",
    "train.log_every",
    "train.checkpoint_every",
    "train.max_bad_steps",
}
# May change: the ensemble is drawn anew from the same model.
_REDRAWN = {"sample.refine"}
# May grow: what exists is the beginning of what is wanted.
_GROW = {"prior.configurations", "train.steps", "sample.num_samples", "baseline.trajectories"}
# A setting is fixed as soon as one of these files exists; keys and sections not named here are fixed by any of them.
_FIXED_BY = {
    "prior": ("prior.h5", "prior.json", "train.jsonl", "checkpoints", "model", "ensemble.h5"),
    "flow": ("train.jsonl", "checkpoints", "model", "ensemble.h5"),
    "train": ("train.jsonl", "checkpoints", "model", "ensemble.h5"),
    "sample": ("ensemble.h5",),
    "measure": ("ensemble.h5", "baseline.h5"),
    "baseline": ("baseline.h5",),
    "pseudofermions.draws": ("ensemble.h5",),
    "pseudofermions.marginal": ("ensemble.h5",),
    **dict.fromkeys(
        ("pseudofermions.arrangement", "pseudofermions.tol", "pseudofermions.max_iterations"), ("draws.json", "ensemble.h5")
    ),
}
_DATA = (
    "prior.h5",
    "prior.json",
    "train.jsonl",
    "checkpoints",
    "model",
    "draws.json",
    "ensemble.h5",
    "baseline.h5",
    "observables.json",
)
# What a stage and those after it have written: `--fresh` discards this and keeps what came before.
_WRITTEN_FROM = {
    "run": ("report.html", *reversed(_DATA), "provenance.json", "config.toml"),
    "train": ("report.html", *reversed(_DATA), "provenance.json", "config.toml"),
    "sample": ("report.html", "observables.json", "ensemble.h5", "draws.json"),
    "measure": ("report.html", "observables.json"),
    "compare": ("report.html", "observables.json", "baseline.h5"),
}


class RunDirectory:
    """Paths of a run, its exclusive lock, and its provenance. Use as a context manager; `open` does the checks."""

    def __init__(self, path: Path):
        self.path = path
        self.config_file = path / "config.toml"
        self.prior = path / "prior.h5"
        self.tuned_prior = path / "prior.json"
        self.draws = path / "draws.json"
        self.training_log = path / "train.jsonl"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.ensemble = path / "ensemble.h5"
        self.baseline = path / "baseline.h5"
        self.observables = path / "observables.json"
        self.report = path / "report.html"
        self.provenance = Provenance(path / "provenance.json")
        self._lock = RunLock(path)

    @classmethod
    def open(cls, path: Path, config: Config, fresh: str | None = None) -> RunDirectory:
        """Lock the directory and make it hold `config`, after discarding what the stage `fresh` and later ones wrote.

        Raises LatflowError, having changed nothing, if the directory is not a run directory, is in use, or holds data (other
        than those discarded) that `config` would not have produced.
        """
        created = not path.exists()
        if path.exists() and not path.is_dir():
            raise LatflowError(f"{path} is a file", "choose another run directory with --out")
        if not created and not (path / "config.toml").exists() and any(p.name != ".lock" for p in path.iterdir()):
            raise LatflowError(
                f"{path} holds files but no config.toml, so it is not a run directory", "choose another one with --out"
            )
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path)
        run._lock.__enter__()
        try:
            doomed = _WRITTEN_FROM[fresh] if fresh else ()
            run._require_compatible(config, doomed)
            run._discard(doomed)
            run.provenance = Provenance(path / "provenance.json")
            write_text(run.config_file, dumps(config))
        except BaseException:
            run.close()
            raise
        return run

    def close(self) -> None:
        self._lock.__exit__()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _discard(self, names: Sequence[str]) -> None:
        for name in names:
            entry = self.path / name
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)

    def _require_compatible(self, config: Config, doomed: Sequence[str]) -> None:
        present = {name for name in _DATA if name not in doomed and (self.path / name).exists()}
        if not present:
            return
        try:
            stored = read(self.config_file)
        except ConfigError as error:
            raise MismatchError(
                f"{self.config_file} is damaged or of another version, so it is unknown what this directory holds\n{error}",
                "repair it, discard the run with --fresh, or choose another directory with --out",
            ) from error
        conflicts = list(_conflicts(flatten(stored), flatten(config), present))
        if conflicts:
            lines = "\n".join(f"  {line}" for line in conflicts)
            raise MismatchError(
                f"{self.path} holds a run with other settings:\n{lines}\n"
                "Choose another directory with --out, or discard that run with --fresh"
            )


def _conflicts(stored: dict[str, Any], wanted: dict[str, Any], present: set[str]) -> Iterator[str]:
    for key in dict.fromkeys([*stored, *wanted]):
        old, new = stored.get(key), wanted.get(key)
        if old == new or key in _FREE | _REDRAWN:
            continue
        started = not present.isdisjoint(_FIXED_BY.get(key, _FIXED_BY.get(key.partition(".")[0], _DATA)))
        if not started or (key in _GROW and old is not None and new is not None and new > old):
            continue
        may_grow = " (it can only grow)" if key in _GROW else ""
        yield f"{key} is {_show(old)} there and {_show(new)} now{may_grow}"


def flatten(config: Config) -> dict[str, Any]:
    """{"theory.beta": 2.0, ...} of every key that is set."""
    out: dict[str, Any] = {}
    for name, value in config.model_dump(mode="python", exclude_none=True).items():
        if isinstance(value, dict):
            out.update({f"{name}.{key}": item for key, item in value.items()})
        else:
            out[name] = value
    return out


def _show(value: Any) -> str:
    if value is None:
        return "not set"
    return str(list(value)) if isinstance(value, tuple) else str(value)
