"""Runs inside the test's own process, by the function behind the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from latflow.app.output import Output
from latflow.app.session import execute


def do(command: str, target: Any, out: Path, *overrides: str) -> None:
    """`latflow COMMAND TARGET --out OUT --set ...`, without output."""
    with Output(True, True).guard() as output:
        execute(command, str(target), list(overrides), out, False, output)


def summary_of(run: Path) -> dict[str, Any]:
    """What `observables.json` says."""
    return json.loads((run / "observables.json").read_text())["description"]["latflow"]
