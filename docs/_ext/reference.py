"""Writes the tables of settings and observables from the code, so that the pages cannot fall behind it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from latflow.app.config import Config
from latflow.groups import SUN, U1, RealLine
from latflow.lattice import Geometry
from latflow.observables import OBSERVABLES


def setup(app: Any) -> dict[str, Any]:
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}


def write(app: Any) -> None:
    folder = Path(app.srcdir) / "_generated"
    folder.mkdir(exist_ok=True)
    for name, text in (("configuration.md", configuration()), ("observables.md", observables())):
        path = folder / name
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def configuration() -> str:
    """One table for the top level, and one for every kind of every section."""
    parts = ["## Top level\n\n" + table({k: f for k, f in Config.model_fields.items() if not sections(f)})]
    for name, field in Config.model_fields.items():
        for model in sections(field):
            kind = model.model_fields.get("kind")
            suffix = f', kind = "{get_args(kind.annotation)[0]}"' if kind else ""
            fields = {k: f for k, f in model.model_fields.items() if k != "kind"}
            doc = " ".join(inspect.getdoc(model).split()) if "__doc__" in vars(model) and model.__doc__ else ""
            parts.append(f"## `[{name}]`{suffix}\n\n{doc}\n\n" + (table(fields) if fields else "No further keys."))
    return "\n\n".join(parts) + "\n"


def sections(field: FieldInfo) -> list[type[BaseModel]]:
    """The models a section may be: several where its `kind` decides."""
    candidates = [field.annotation, *get_args(field.annotation)]
    return [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]


def table(fields: dict[str, FieldInfo]) -> str:
    rows = ["| key | values | default |", "|---|---|---|"]
    for name, field in fields.items():
        rows.append(f"| `{name}` | {values(field)} | {default(field)} |")
    return "\n".join(rows)


def values(field: FieldInfo) -> str:
    text = field.annotation.__name__ if isinstance(field.annotation, type) else str(field.annotation)
    if choices := re.findall(r"Literal\[(.*?)\]", text):
        return " or ".join(f"`{c.strip()}`".replace("'", '"') for c in choices[0].split(","))
    kinds = [word for word in ("tuple", "str", "bool", "float", "int") if re.search(rf"\b{word}\b", text)]
    kind = {"tuple": "array"}.get(kinds[0], kinds[0]) if kinds else text
    bounds = [
        f"{sign} {getattr(m, key):g}"
        for m in field.metadata
        for key, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
        if getattr(m, key, None) is not None
    ]
    if kind == "array":
        return (
            "array of strings"
            if "str" in kinds
            else "array of numbers"
            if "float" in kinds
            else "array of positive integers"
            if text.count("tuple") == 1
            else "array of pairs"
        )
    return " ".join([kind, ", ".join(bounds)]).strip()


def default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None:
        return "none"
    value = field.default
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value:g}`" if value < 1e15 else f"`{value}`"


def observables() -> str:
    """Name, meaning, and which theories have it."""
    cases = {
        "U(1), 2D": (U1(), Geometry((4, 4))),
        "U(1), 4D": (U1(), Geometry((4,) * 4)),
        "SU(N)": (SUN(3), Geometry((4,) * 4)),
        "scalar": (RealLine(), Geometry((4, 4))),
    }
    rows = [f"| name | meaning | {' | '.join(cases)} |", "|---|---|" + "---|" * len(cases)]
    rows.append("| `action_density` | action per site, S / V |" + " yes |" * len(cases))
    for name, observable in OBSERVABLES.items():
        marks = " | ".join("yes" if observable.applies(*case) else "" for case in cases.values())
        rows.append(f"| `{name}` | {observable.description.replace('|', chr(92) + '|')} | {marks} |")
    rows.append("| `wilson_loop_RxT` | Re Tr W(R, T) / Nc, for any R and T that fit | yes | yes | yes |  |")
    return "\n".join(rows) + "\n"
