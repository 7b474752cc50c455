"""The shape of the code base, kept true: layers, file lengths, light imports, no pickles, a lock without addresses."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MAX_LINES = 400
APPLICATION_ONLY = ("pydantic", "typer", "rich", "jinja2", "matplotlib", "pyerrors", "tomli_w", "filelock")
UNSAFE = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys

blocked = set(sys.argv[1].split(","))

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is not installed", name=name)

sys.meta_path.insert(0, Refuse())
import latflow

assert not {"jax", "numpy"} & set(sys.modules), "import latflow must be light"
modules = [m.name for m in pkgutil.walk_packages(latflow.__path__, "latflow.", onerror=lambda name: None)]
core = [name for name in modules if name.split(".")[1] != "app"]
for name in core:
    importlib.import_module(name)
print(len(core))
"""


def test_layers():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Contracts: 2 kept, 0 broken", done.stdout), done.stdout


def test_every_file_can_be_read_in_one_sitting():
    files = [f for folder in ("src", "tests", "benchmarks") for f in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    long = {str(f.relative_to(ROOT)): n for f in files if (n := len(f.read_text("utf-8").splitlines())) > MAX_LINES}
    assert not long, f"split these files, at most {MAX_LINES} lines each: {long}"


def test_library_imports_without_the_application_packages():
    command = [sys.executable, "-c", IMPORT_EVERYTHING, ",".join(APPLICATION_ONLY)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


@pytest.mark.parametrize("folder", sorted({f.relative_to(ROOT / "src/latflow").parts[0] for f in SOURCES}))
def test_nothing_executes_data(folder):
    """No pickle, no eval, no exec: files from elsewhere are data."""
    base = ROOT / "src/latflow" / folder
    for file in [base] if base.is_file() else base.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            found = _unsafe(node)
            assert not found, f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} uses {found}"


def _unsafe(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.partition(".")[0] for alias in node.names} & UNSAFE
    if isinstance(node, ast.ImportFrom):
        return {(node.module or "").partition(".")[0]} & UNSAFE
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return {node.func.id} & {"eval", "exec", "__import__"}
    if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
        return set() if isinstance(node.value, ast.Constant) and node.value.value is False else {"allow_pickle"}
    return set()


def test_unsafe_code_is_noticed():
    code = "import pickle\nfrom dill import loads\neval('1')\nnp.load(f, allow_pickle=True)\nnp.load(f, allow_pickle=False)"
    found = [_unsafe(node) for node in ast.walk(ast.parse(code))]
    assert sorted(name for names in found for name in names) == ["allow_pickle", "dill", "eval", "pickle"]


def test_lock_is_hashed_and_names_no_address():
    text = (ROOT / "requirements.lock").read_text("utf-8")
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links|^-e|@ file", text, re.MULTILINE)
    requirements = [r for r in re.split(r"\n(?=\S)", text.strip()) if not r.startswith("#")]
    assert len(requirements) > 50
    unhashed = [r.split()[0] for r in requirements if "--hash=sha256:" not in r or "==" not in r.split()[0]]
    assert not unhashed


def test_version_is_stated_once():
    import tomllib

    import latflow

    assert tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"] == latflow.__version__
    assert f"## {latflow.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
