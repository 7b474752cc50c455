"""Running what a figure takes, and writing it down beside the paper's numbers."""

from __future__ import annotations

import difflib
import json
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from latflow.app.output import Output
from latflow.app.report.run_data import load_run
from latflow.app.reproduce.figures import BUDGETS, FIGURES, Figure
from latflow.app.session import execute
from latflow.errors import LatflowError
from latflow.io.atomic import write_text


def reproduce(name: str, budget: str, out: Path | None, fresh: bool, output: Output) -> dict[str, Any]:
    """Make the figure `name` in `out` (default runs/reproduce/BUDGET): run its parts or continue them, then write NAME.html and
    NAME.json. Raises LatflowError for an unknown name or budget, and as `execute`."""
    if name not in FIGURES:
        close = difflib.get_close_matches(name, FIGURES, n=1)
        raise LatflowError(
            f"there is no figure {name!r}" + (f"; did you mean {close[0]}?" if close else ""),
            f"choose one of {', '.join(FIGURES)}",
        )
    if budget not in BUDGETS:
        raise LatflowError(f"there is no budget {budget!r}", f"choose one of {', '.join(BUDGETS)}")
    figure, directory = FIGURES[name], out or Path("runs") / "reproduce" / budget
    runs = {}
    for part in figure.parts:
        path = directory / part.name
        output.note(f"part      {part.name}: {path}")
        execute("run", part.recipe, part.overrides(budget), path, fresh, Output(as_json=False, quiet=output.quiet))
        runs[part.name] = load_run(path)
    panels, rows = figure.draw(runs)
    page, data = directory / f"{name}.html", directory / f"{name}.json"
    numbers = [{"quantity": what, "paper": theirs, "here": ours} for what, theirs, ours in rows]
    document = {"figure": name, "paper": figure.paper, "budget": budget, "numbers": numbers}
    write_text(data, json.dumps(document, indent=1))
    write_text(page, _render(name, figure, budget, panels, rows))
    return {**document, "page": str(page), "runs": [str(directory / part.name) for part in figure.parts]}


def _render(name: str, figure: Figure, budget: str, panels: list[Any], rows: list[tuple[str, str, str]]) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((resources.files("latflow.app.reproduce") / "figure.html.j2").read_text("utf-8"))
    style = (resources.files("latflow.app.report") / "page.css").read_text("utf-8")
    return template.render(
        style=Markup(style),
        name=name,
        figure=figure,
        budget=budget,
        baseline=figure.compares_with_hmc,
        rows=rows,
        panels=panels,
        svg=Markup,
        runs=figure.parts,
    )
