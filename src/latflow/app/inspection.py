"""What a run directory holds, read without computing anything and without touching it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from latflow.app.report.numbers import duration
from latflow.app.summary import headlines
from latflow.errors import LatflowError

_FILES = (
    "config.toml",
    "provenance.json",
    "prior.h5",
    "train.jsonl",
    "checkpoints",
    "model",
    "ensemble.h5",
    "baseline.h5",
    "observables.json",
    "report.html",
)


def describe(directory: Path) -> dict[str, Any]:
    """The directory as a JSON document. Raises LatflowError if it is not a run directory; damaged parts are named in it."""
    if not directory.is_dir():
        raise LatflowError(f"there is no run directory {directory}", "give the directory that `latflow run` reported")
    if not (directory / "config.toml").is_file():
        raise LatflowError(f"{directory} is not a run directory: it holds no config.toml", "give one made by `latflow run`")
    damaged: dict[str, str] = {}

    def attempt(name: str, reader: Any, default: Any) -> Any:
        try:
            return reader(directory / name) if (directory / name).exists() else default
        except (OSError, ValueError, KeyError, LatflowError) as error:
            damaged[name] = str(error)
            return default

    config = attempt("config.toml", lambda path: tomllib.loads(path.read_text("utf-8")), {})
    provenance = attempt("provenance.json", lambda path: json.loads(path.read_text("utf-8")), {})
    summary = attempt("observables.json", read_summary, {})
    document: dict[str, Any] = {
        "run_directory": str(directory),
        "recipe": config.get("name"),
        "description": config.get("description", ""),
        "theory": config.get("theory", {}),
        "stages": provenance.get("stages", {}),
        "training": attempt("train.jsonl", _last_line, {}),
        "model": attempt("model/model.json", lambda path: json.loads(path.read_text("utf-8")), {}),
        "ensemble": attempt("ensemble.h5", _rows, {}),
        "baseline": attempt("baseline.h5", _rows, {}),
        **{key: summary.get(key) for key in ("ess", "ess_prior", "prior", "acceptance", "log_z", "seconds")},
        "files": {name: _size(directory / name) for name in _FILES if (directory / name).exists()},
        "versions": provenance.get("versions", {}),
        "config": config,
        "damaged": damaged,
    }
    return document


def read_summary(path: Path) -> dict[str, Any]:
    """Our summary inside observables.json. Raises ValueError if there is none."""
    document = json.loads(path.read_text("utf-8"))
    try:
        return document["description"]["latflow"]
    except (KeyError, TypeError):
        raise ValueError(f"{path} holds no summary of a run") from None


def render(document: dict[str, Any]) -> str:
    """The description for people."""
    theory, config = document["theory"], document["config"]
    couplings = ", ".join(f"{key} = {value}" for key, value in theory.items() if key not in ("kind", "lattice"))
    lines = [
        f"{document['run_directory']}: {document['recipe']}",
        f"  {document['description']}",
        f"  theory      {theory.get('kind')} on {theory.get('lattice')}, {couplings}",
        f"  flow        {(config.get('flow') or {}).get('kind')} from the {(config.get('prior') or {}).get('kind')} prior",
    ]
    for name, record in document["stages"].items():
        state = "complete" if record.get("complete") else "unfinished"
        lines.append(f"  {name:<11} {state}, {duration(record.get('seconds'))}")
    training = document["training"]
    if training:
        lines.append(f"  last log    step {training.get('step')}, loss {training.get('loss')}, ESS {training.get('ess')}")
    for name in ("ensemble", "baseline"):
        if document[name]:
            columns = [column.removeprefix("measurements/") for column in document[name]["columns"]]
            lines.append(f"  {name:<11} {document[name]['rows']} rows of {', '.join(columns)}")
    lines += [f"  {line}" for line in headlines(document)]
    lines.append("  files       " + ", ".join(f"{name} {_bytes(size)}" for name, size in document["files"].items()))
    lines += [f"  DAMAGED     {name}: {reason}" for name, reason in document["damaged"].items()]
    return "\n".join(line.rstrip() for line in lines)


def _last_line(path: Path) -> dict[str, Any]:
    for line in reversed(path.read_text("utf-8", errors="replace").splitlines()):
        try:
            row = json.loads(line)
        except ValueError:  # torn by a crash
            continue
        if isinstance(row, dict):
            return row
    return {}


def _rows(path: Path) -> dict[str, Any]:
    from latflow.io.ensemble import EnsembleFile

    with EnsembleFile.open(path) as file:
        return {"rows": file.n_committed, "kind": file.kind, "columns": sorted(file.columns)}


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
    return path.stat().st_size


def _bytes(size: int) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000  # type: ignore[assignment]
    return f"{size:.1f} GB"
