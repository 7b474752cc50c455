"""What the documents show is what runs: the Python of README.md and CONTRIBUTING.md is executed as it stands."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

from latflow.exact import TorusU1

ROOT = Path(__file__).resolve().parent.parent
CONTRIBUTING = ("SineGordon", "MomentumScaling", "Langevin")


def python_blocks(name: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text("utf-8"), re.DOTALL | re.MULTILINE)


def execute(source: str) -> dict:
    # no annotation of this module's __future__ leaks into the example
    names: dict = {"__name__": "example"}
    exec(compile(source, "example", "exec", dont_inherit=True), names)
    return names


def test_readme_example_samples_the_theory_exactly():
    (source,) = python_blocks("README.md")
    statements = [line for line in source.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(statements) <= 15
    names = execute(source)
    ess, _ = names["ess_with_error"](names["log_weight"])
    assert ess > 0.3
    plaquette, exact = names["estimate"](names["plaquette"]), TorusU1(names["geometry"], 2.0).plaquette()
    assert plaquette.ess > 500
    assert abs(plaquette.value - exact) < 5 * plaquette.error
    assert np.asarray(names["chain"].accepted).any()


@pytest.mark.parametrize(("index", "name"), list(enumerate(CONTRIBUTING)))
def test_worked_example_runs(index, name):
    source = python_blocks("CONTRIBUTING.md")[index]
    assert name in execute(source)


def test_worked_examples_are_short():
    blocks = python_blocks("CONTRIBUTING.md")
    assert len(blocks) == len(CONTRIBUTING)
    for source in blocks:
        assert max(map(len, source.splitlines())) <= 128
        assert source == textwrap.dedent(source)


def test_documents_name_files_that_exist():
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text("utf-8")
        links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
        missing = [link for link in links if not (ROOT / link).exists()]
        assert not missing, f"{document} links to {missing}"


def test_readme_lists_every_recipe():
    recipes = {file.stem for file in (ROOT / "src/latflow/app/recipes").glob("*.toml")}
    listed = set(re.findall(r"^\| `([^`]+)` \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE))
    assert listed == recipes
