"""One message for all mistakes of a configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from latflow.app.config.schema import SECTIONS, key_suggestion, models, suggestion
from latflow.errors import LatflowError

_TYPES = {
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
    "tuple_type": "must be an array",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "finite_number": "must be a finite number",
}


class ConfigError(LatflowError):
    """Everything that is wrong with a configuration. `problems` is a list of (path, message)."""

    def __init__(self, source: str, problems: Sequence[tuple[str, str]]):
        self.source = source
        self.problems = list(problems)
        count = "1 mistake" if len(self.problems) == 1 else f"{len(self.problems)} mistakes"
        lines = [f"  {path}: {message}" if path else f"  {message}" for path, message in self.problems]
        super().__init__("\n".join([f"{source} has {count}:", *lines]))


def describe(error: Mapping[str, Any], raw: Mapping[str, Any]) -> tuple[str, str]:
    """(path, message) of one pydantic error in the raw tables."""
    loc = list(error["loc"])
    section = loc[0] if loc and loc[0] in SECTIONS else None
    table = raw.get(section) if section else None
    kind = table.get("kind") if isinstance(table, Mapping) else None
    if section and len(loc) > 1 and loc[1] == kind and None not in models(section):
        del loc[1]
    path = _join(loc)
    match error["type"]:
        case "missing":
            return path, "is required"
        case "extra_forbidden":
            return path, "unknown key" + key_suggestion(section, str(loc[-1]), kind)
        case "union_tag_not_found":
            return f"{path}.kind", f"is required: one of {_list(models(str(section)))}"
        case "union_tag_invalid":
            known = models(str(section))
            return f"{path}.kind", f"unknown kind {_show(kind)}{suggestion(str(kind), map(str, known))} (one of {_list(known)})"
        case "literal_error":
            options = re.findall(r"'([^']*)'", error["ctx"]["expected"])
            value = error["input"]
            return path, f"must be one of {_list(options)}, got {_show(value)}{suggestion(str(value), options)}"
        case "value_error":
            return path, str(error["ctx"]["error"])
        case "string_pattern_mismatch":
            return path, f"may hold letters, digits, '.', '_' and '-' only, got {_show(error['input'])}"
        case kind_of_error if kind_of_error in _TYPES:
            return path, f"{_TYPES[kind_of_error]}, got {_show(error['input'])}"
    message = re.sub(r"^(Input|Tuple|Value|String) should", "should", error["msg"])
    return path, f"{message}, got {_show(error['input'])}"


def _join(loc: Sequence[Any]) -> str:
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else (f".{part}" if path else str(part))
    return path


def _list(options: Any) -> str:
    return ", ".join(f'"{option}"' for option in options)


def _show(value: Any) -> str:
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
