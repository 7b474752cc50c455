"""Where a run came from: versions, commit, device, seed, and how long each stage took over all resumes."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from latflow.app.output import plain
from latflow.io.atomic import write_json

_PACKAGES = (
    "latflow",
    "jax",
    "jaxlib",
    "equinox",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "scipy",
    "h5py",
    "pyerrors",
    "safetensors",
)
_KEPT_SESSIONS = 100


class Provenance:
    """`provenance.json`: facts about the run, one entry per session, and a record per stage."""

    def __init__(self, path: Path):
        self.path = path
        self.data: dict[str, Any] = {"sessions": [], "stages": {}}
        try:
            found = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):  # only a record; the run does not depend on it
            return
        if isinstance(found, dict) and isinstance(found.get("stages"), dict) and isinstance(found.get("sessions"), list):
            self.data = found

    def start_session(self, seed: int, device: dict[str, Any]) -> None:
        """Note who, where and with what, each time a process works on the run."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        facts = {"seed": seed, "versions": versions(), "git": git_commit(), "platform": machine(), "device": device}
        self.data.setdefault("created", now)
        self.data.setdefault("command", command())
        self.data.update(facts)
        session = {"started": now, "command": command(), "device": device, "load_average": load_average(), "git": facts["git"]}
        self.data["sessions"] = [*self.data["sessions"], session][-_KEPT_SESSIONS:]
        self.save()

    def stage(self, name: str) -> dict[str, Any]:
        """The record of a stage: at least "seconds"."""
        return self.data["stages"].setdefault(name, {"seconds": 0.0})

    def stage_complete(self, name: str) -> bool:
        """Whether a stage was finished."""
        return bool(self.data["stages"].get(name, {}).get("complete"))

    def update(self, name: str, **facts: Any) -> None:
        """Change facts of a stage and save."""
        self.stage(name).update(plain(facts))
        self.save()

    def forget(self, name: str) -> None:
        """A stage is to be done anew."""
        self.data["stages"].pop(name, None)
        self.save()

    def seconds(self) -> dict[str, float]:
        """Wall time per stage, resumes added up."""
        return {name: float(record.get("seconds", 0.0)) for name, record in self.data["stages"].items()}

    def save(self) -> None:
        write_json(self.path, plain(self.data))


def command() -> list[str]:
    """The command line, with the program by its name."""
    return [Path(sys.argv[0]).name if sys.argv else "latflow", *sys.argv[1:]]


def versions() -> dict[str, str]:
    out = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            continue
    return out


def git_commit() -> dict[str, Any] | None:
    """Commit of the checkout this package runs from, and whether it was changed; None for an installed package."""
    here = Path(__file__).resolve().parent
    try:
        root = Path(_git(here, "rev-parse", "--show-toplevel"))
        if not (root / "src" / "latflow").is_dir():
            return None
        return {"commit": _git(root, "rev-parse", "HEAD"), "dirty": bool(_git(root, "status", "--porcelain", "--", "src"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(where: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True, timeout=5, check=True)
    return done.stdout.strip()


def machine() -> dict[str, Any]:
    return {"system": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count()}


def load_average() -> list[float] | None:
    """1, 5 and 15 minute load: timings on a busy machine are to be read with care."""
    try:
        return [round(x, 2) for x in os.getloadavg()]
    except OSError:
        return None
