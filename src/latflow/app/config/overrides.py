"""`--set path=value` on the command line."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Sequence
from typing import Any

from latflow.app.config.schema import SECTIONS, is_optional, models, paths, suggestion

# Setting one of these replaces the other, so a recipe given by m2 can be rerun at a kappa.
_REPLACES = {"theory.kappa": "m2", "theory.m2": "kappa"}


def parse(assignment: str) -> tuple[str, Any, str | None]:
    """(path, value, problem) of one `path=value`. The value is TOML, or a string if it is not valid TOML."""
    path, equals, text = assignment.partition("=")
    path, text = path.strip(), text.strip()
    if not equals or not path:
        return path, None, f"--set needs path=value, got {assignment!r}"
    known = paths()
    if path not in known:
        close = suggestion(path, known) or _by_last_part(path, known)
        return path, None, f"no such setting{close}"
    return path, _value(text), None


def apply(raw: dict[str, Any], assignments: Sequence[str]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The raw tables with every override applied, in order, and the problems found."""
    result, problems = copy.deepcopy(raw), []
    for assignment in assignments:
        path, value, problem = parse(assignment)
        if problem:
            problems.append((path, problem))
            continue
        section, dot, key = path.partition(".")
        if not dot:
            result[path] = value
            continue
        table = result.setdefault(section, {})
        if not isinstance(table, dict):
            problems.append((section, "must be a table"))
        elif value == "none" and is_optional(path):
            table.pop(key, None)
        else:
            if key == "kind" and value != table.get("kind"):
                _keep_common(section, value, table)
            table.pop(_REPLACES.get(path, ""), None)
            table[key] = value
    return result, problems


def _keep_common(section: str, kind: Any, table: dict[str, Any]) -> None:
    """Another kind was chosen: keys that only the old kind knows go, mistaken ones stay to be reported."""
    known = models(section)
    old = known.get(table.get("kind"))
    if kind in known and old is not None:
        for key in set(table) & (set(old.model_fields) - set(known[kind].model_fields)):
            del table[key]


def _value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if set(parsed) == {"value"} else text


def _by_last_part(path: str, known: Sequence[str]) -> str:
    last = path.rpartition(".")[2]
    homes = [p for p in known if p.rpartition(".")[2] == last]
    homes = homes or [p for p in known if len(last) > 2 and p.rpartition(".")[2].startswith(last)]
    if homes:
        return f"; did you mean {' or '.join(homes)}?"
    section = path.partition(".")[0]
    return suggestion(section, SECTIONS)
