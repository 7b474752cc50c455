"""The recipes shipped with the package. Only the standard library is imported: completion and `recipes` must be quick."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parent / "recipes"


def names() -> list[str]:
    """Names of all recipes, sorted."""
    return sorted(str(path.relative_to(DIRECTORY).with_suffix("")) for path in DIRECTORY.rglob("*.toml"))


def path(name: str) -> Path | None:
    """The file of a recipe, or None if there is no such recipe."""
    return DIRECTORY / f"{name}.toml" if name in names() else None


def text(name: str) -> str:
    """The file of a recipe as it is. Raises KeyError for an unknown name."""
    if (file := path(name)) is None:
        raise KeyError(name)
    return file.read_text(encoding="utf-8")


def summaries() -> list[dict[str, Any]]:
    """[{"name", "description", "expected_time"}] of all recipes."""
    out = []
    for name in names():
        raw = tomllib.loads(text(name))
        out.append({"name": name, "description": raw.get("description", ""), "expected_time": raw.get("expected_time", "")})
    return out


def did_you_mean(name: str) -> str:
    close = difflib.get_close_matches(name, names(), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f" (there are {', '.join(names())})"
