"""`train.jsonl`: one JSON object per logged step, appended as training goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latflow.app.output import plain
from latflow.io.atomic import write_text
from latflow.io.errors import explained


class TrainingLog:
    """Appends records. A run that resumes at an earlier step than was logged forgets the lines after it, so that the file of a
    resumed training has the same steps as that of an uninterrupted one."""

    def __init__(self, path: Path):
        self.path = path
        self._opened = False

    def append(self, record: Mapping[str, Any]) -> None:
        if not self._opened:
            self._forget_from(int(record["step"]))
            self._opened = True
        with explained(self.path, "write"), self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(plain(dict(record))) + "\n")

    def records(self) -> list[dict[str, Any]]:
        """All complete lines."""
        if not self.path.exists():
            return []
        out = []
        with explained(self.path, "read"):
            lines = self.path.read_text("utf-8", errors="replace").splitlines()
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:  # torn by a crash
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                out.append(row)
        return out

    def _forget_from(self, step: int) -> None:
        if self.path.exists():
            kept = [row for row in self.records() if row["step"] < step]
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
