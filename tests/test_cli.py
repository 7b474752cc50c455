"""The command line as a user meets it: quick answers, one JSON document, one message for a mistake, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from latflow.app import analysis, recipes_index
from latflow.app.cli import explain
from latflow.app.config import validate
from latflow.app.output import plain
from latflow.app.progress import Progress, sparkline
from latflow.app.report.numbers import pull
from latflow.app.run_directory import RunDirectory
from latflow.app.session import STAGES
from latflow.app.summary import headlines, print_summary
from latflow.errors import LatflowError, LockedError, MismatchError

TINY = {
    "name": "tiny",
    "theory": {"kind": "u1", "lattice": [4, 4], "beta": 1.0},
    "train": {"steps": 0},
    "sample": {"num_samples": 64, "batch_size": 32},
    "baseline": {"kind": "none"},
}


def latflow(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", "from latflow.app.cli import main; main()"]
    return subprocess.run(
        [*program, *arguments], capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment}, timeout=300
    )


def test_help_is_quick_and_names_every_command():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = latflow("--help")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5
    assert done.returncode == 0 and done.stderr == ""
    for command in ("run", *STAGES, "recipes", "show", "inspect", "--version"):
        assert command in done.stdout


def test_the_command_line_imports_nothing_heavy():
    heavy = ("jax", "numpy", "pydantic", "matplotlib", "rich")
    code = f"import sys, latflow.app.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_options_are_the_same_on_every_stage():
    for command in ("run", "compare"):
        text = latflow(command, "--help").stdout
        for option in (
            "--set",
            "--out",
            "--seed",
            "--fresh",
            "--resume",
            "--device",
            "--precision",
            "--quiet",
            "--json",
            "--debug",
        ):
            assert option in text


def test_recipes_and_show():
    listed = json.loads(latflow("recipes", "--json").stdout)["recipes"]
    assert [row["name"] for row in listed] == recipes_index.names()
    assert all(row["description"] and row["expected_time"] for row in listed)
    assert "u1-2d-fine" in latflow("recipes").stdout
    shown = latflow("show", "u1-2d")
    assert shown.stdout.strip() == recipes_index.text("u1-2d").strip()
    document = json.loads(latflow("show", "u1-2d", "--json").stdout)
    assert document["recipe"] == "u1-2d" and document["config"]["theory"]["beta"] == 2.0


def test_completion_offers_recipes_and_settings():
    # the completion protocol names its variable after the program
    code = "import sys; sys.argv = ['latflow']; from latflow.app.cli import main; main()"

    def ask(words: str) -> list[str]:
        env = {"_LATFLOW_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **env})
        return done.stdout.split()

    assert ask("latflow run u1-2d-f") == ["u1-2d-fine"]
    assert "train.batch_size=" in ask("latflow run u1-2d --set train.b")


BAD = [
    (["show", "u1-2"], "did you mean u1-2d"),
    (["run", "missing.toml"], "no such file"),
    (["run", "u1-2d", "--set", "train.stepz=3", "--set", "theory.beta=-1"], "did you mean train.steps"),
    (["run", "u1-2d", "--nonsense"], "nonsense"),
    (["run"], "Missing argument"),
    (["sample", "u1-2d"], "latflow train u1-2d"),
    (["report", "u1-2d"], "latflow run u1-2d"),
    (["inspect", "nowhere"], "no run directory"),
    (["run", "u1-2d", "--device", "tpu"], "device"),
    (["run", "u1-2d", "--device", "gpu"], "run with --device cpu"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_a_mistake_is_one_message_and_writes_nothing(arguments: list[str], message: str, tmp_path: Path):
    done = latflow(*arguments, "--json", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert done.returncode == document["exit_status"] == 2
    assert message in document["error"] and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_for_people_and_with_traceback(tmp_path: Path):
    done = latflow("run", "nothing", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("Error: there is no recipe") and "Traceback" not in done.stderr
    assert "Traceback" in latflow("run", "nothing", "--debug", cwd=tmp_path).stderr


def test_unexpected_errors_are_named_as_bugs_and_a_full_disk_as_such():
    assert "bug" in explain(ZeroDivisionError("x"))
    assert "free some space" in explain(OSError(28, "No space left on device", "ensemble.h5"))
    assert explain(LatflowError("a", "b")) == "a: b"


def tiny(**changes: Any) -> Any:
    return validate(TINY, [f"{k.replace('__', '.')}={json.dumps(v)}" for k, v in changes.items()])


def test_run_directory_refuses_what_does_not_belong(tmp_path: Path):
    run = tmp_path / "run"
    with RunDirectory.open(run, tiny()):
        with pytest.raises(LockedError):
            RunDirectory.open(run, tiny())
        (run / "ensemble.h5").write_bytes(b"data")
    before = (run / "config.toml").read_bytes()
    refused = {
        "theory__beta": 2.0,
        "theory__lattice": [8, 8],
        "seed": 5,
        "precision": "double",
        "sample__num_samples": 32,
        "sample__batch_size": 16,
        "prior__kind": "exact",
    }
    for key, value in refused.items():
        with pytest.raises(MismatchError, match=key.replace("__", ".") + r" is .* there and .* now(.|\n)*--out.*--fresh"):
            RunDirectory.open(run, tiny(**{key: value}))
    assert (run / "config.toml").read_bytes() == before and (run / "ensemble.h5").read_bytes() == b"data"
    # what may change: more samples, how often to log, the baseline while there is none
    with RunDirectory.open(run, tiny(sample__num_samples=128, train__log_every=3, baseline__kind="hmc", name="other")):
        assert (run / "ensemble.h5").exists()


def test_fresh_discards_a_stage_and_those_after_it_but_no_strangers(tmp_path: Path):
    run = tmp_path / "run"
    with RunDirectory.open(run, tiny()):
        (run / "model").mkdir()
        for name in ("ensemble.h5", "baseline.h5", "model/model.json", "notes.txt"):
            (run / name).write_text("x")
    with RunDirectory.open(run, tiny(sample__batch_size=16), fresh="sample"):
        assert not (run / "ensemble.h5").exists() and (run / "model/model.json").exists()
    with pytest.raises(MismatchError):
        RunDirectory.open(run, tiny(theory__beta=3.0), fresh="sample")
    with RunDirectory.open(run, tiny(theory__beta=3.0), fresh="run"):
        assert sorted(p.name for p in run.iterdir()) == [".lock", "config.toml", "notes.txt"]


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("precious")
    for fresh in (None, "run"):
        with pytest.raises(LatflowError, match="not a run directory"):
            RunDirectory.open(tmp_path, tiny(), fresh=fresh)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(LatflowError, match="is a file"):
        RunDirectory.open(tmp_path / "thesis.tex", tiny())


def test_a_damaged_stored_configuration_is_explained(tmp_path: Path):
    with RunDirectory.open(tmp_path / "run", tiny()):
        (tmp_path / "run/ensemble.h5").write_bytes(b"data")
    (tmp_path / "run/config.toml").write_text("[theory\n")
    with pytest.raises(MismatchError, match="damaged"):
        RunDirectory.open(tmp_path / "run", tiny())


def test_json_documents_hold_plain_numbers():
    import numpy as np

    document = plain({"a": np.float32(1.5), "b": np.arange(2), "c": float("nan"), 3: (True, None), "d": Path("x")})
    assert json.loads(json.dumps(document)) == {"a": 1.5, "b": [0, 1], "c": None, "3": [True, None], "d": "x"}


def test_progress_is_silent_when_asked_and_curves_survive_bad_numbers(capfd: pytest.CaptureFixture[str]):
    for quiet in (True, False):
        with Progress("train", 10, curves=("loss",), quiet=quiet) as progress:
            progress.update(10, {"loss": 1.0})
        assert ("10/10" in capfd.readouterr().err) is not quiet
    assert sparkline([0.0, float("nan"), 1.0]) == "▁ █" and sparkline([]) == ""


def test_pulls_and_headlines_of_incomplete_summaries():
    assert pull(1.0, 0.3, 0.5, 0.4) == pytest.approx(1.0)
    assert pull(1.0, None, 0.5) is None and pull(1.0, 0.0, 0.5) is None
    lines = headlines({"ess": {"value": 0.5, "error": 0.01, "samples": 64}, "acceptance": 0.7, "log_z": None})
    assert len(lines) == 2 and "0.500(10)" in lines[0]


RUN = """
name = "small"
[theory]
kind = "u1"
lattice = [4, 4]
beta = 0.4
[flow]
kind = "u1-coupling"
blocks = 1
conv = [2]
hidden = [2]
bins = 2
[train]
steps = 20
batch_size = 32
log_every = 5
estimator = "plain"
[sample]
num_samples = 512
batch_size = 128
[baseline]
kind = "hmc"
chains = 4
thermalisation = 20
trajectories = 40
num_steps = 4
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """(directory in which `run` is a finished run of small.toml, the JSON document it printed)."""
    home = tmp_path_factory.mktemp("cli")
    (home / "small.toml").write_text(RUN)
    done = small(home, "run", "small.toml")
    assert done.returncode == 0, done.stderr
    return home, json.loads(done.stdout)


def small(home: Path, command: str, target: str, *options: str) -> subprocess.CompletedProcess[str]:
    where = () if target == "run" else ("--out", "run")
    return latflow(command, target, *where, "--json", *options, cwd=home, LATFLOW_CACHE=str(home / "cache"))


def test_a_run_prints_one_document_of_the_promised_shape(finished: tuple[Path, dict[str, Any]]):
    home, document = finished
    assert document["recipe"] == "small" and document["theory"] == {"kind": "u1", "lattice": [4, 4], "beta": 0.4}
    assert document["warnings"] == []
    assert set(document["ess"]) == {"value", "error", "samples"} and document["ess"]["samples"] == 512
    assert 0 < document["ess"]["value"] <= 1 and 0 < document["acceptance"] <= 1
    log_z = document["log_z"]
    assert abs(log_z["value"] - log_z["exact"]) < 5 * log_z["error"]
    assert {"plaquette", "q2", "chi_top", "polyakov", "wilson_loop_1x2", "creutz_ratio_2x2"} <= set(document["observables"])
    for name, row in document["observables"].items():
        assert {"value", "error", "tau_int", "exact", "reweighted", "baseline"} <= set(row), name
    baseline = document["baseline"]
    assert baseline["kind"] == "hmc" and 0.5 < baseline["acceptance"] <= 1 and "plaquette" in baseline["observables"]
    assert {"train", "sample", "measure", "baseline"} <= set(document["seconds"])
    assert all(seconds > 0 for seconds in document["seconds"].values())
    assert (home / document["report"]).is_file()


def test_estimates_agree_with_what_is_known_exactly(finished: tuple[Path, dict[str, Any]]):
    rows = finished[1]["observables"]
    assert finished[1]["ess"]["value"] * 512 > 100
    for name in ("plaquette", "q2", "wilson_loop_2x2"):
        row = rows[name]
        for estimate in (row, row["reweighted"], row["baseline"]):
            assert abs(estimate["value"] - row["exact"]) < 5 * estimate["error"], (name, estimate)


def test_a_run_directory_holds_what_it_should(finished: tuple[Path, dict[str, Any]]):
    import pyerrors as pe

    run = finished[0] / "run"
    for name in ("config.toml", "provenance.json", "train.jsonl", "checkpoints", "model/model.safetensors", "model/model.json"):
        assert (run / name).exists()
    for name in ("ensemble.h5", "baseline.h5", "observables.json", "report.html"):
        assert (run / name).stat().st_size > 0
    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["seed"] == 1 and provenance["versions"]["jax"] and provenance["device"]["platform"] == "cpu"
    assert all(record["complete"] for record in provenance["stages"].values())
    lines = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    exported = pe.input.json.load_json(str(run / "observables.json"), gz=False, verbose=False, full_output=True)
    assert exported["description"]["latflow"]["recipe"] == "small"
    by_name = dict(zip(exported["description"]["names"], exported["obsdata"], strict=True))
    row = finished[1]["observables"]["plaquette"]
    assert by_name["flow/plaquette"].value == pytest.approx(row["value"], rel=1e-6)
    assert by_name["baseline/plaquette"].value == pytest.approx(row["baseline"]["value"], rel=1e-6)


def test_a_finished_run_is_not_done_again_and_can_grow(finished: tuple[Path, dict[str, Any]]):
    home, document = finished
    before = (home / "run/ensemble.h5").read_bytes()
    again = small(home, "run", "run")
    assert "complete: 20 steps" in again.stderr and "complete: 512 proposals" in again.stderr
    repeated = json.loads(again.stdout)
    assert repeated["observables"] == document["observables"] and (home / "run/ensemble.h5").read_bytes() == before
    described = json.loads(latflow("inspect", "run", "--json", cwd=home).stdout)
    assert described["damaged"] == {} and described["ensemble"]["rows"] == 512 and described["stages"]["train"]["complete"]
    assert "512 rows" in latflow("inspect", "run", cwd=home).stdout
    refused = small(home, "run", "run", "--set", "theory.beta=1.5")
    assert refused.returncode == 2 and "theory.beta is 0.4 there and 1.5 now" in json.loads(refused.stdout)["error"]
    grown = json.loads(small(home, "sample", "run", "--set", "sample.num_samples=640").stdout)
    assert grown["ess"]["samples"] == 640
    measured = json.loads(small(home, "measure", "run").stdout)
    assert measured["ess"] == grown["ess"] and measured["observables"]["plaquette"]["baseline"]


def test_more_training_replaces_the_ensemble(finished: tuple[Path, dict[str, Any]], tmp_path: Path):
    shutil.copytree(finished[0] / "run", tmp_path / "run")
    shutil.copytree(finished[0] / "cache", tmp_path / "cache")
    trained = json.loads(small(tmp_path, "train", "run", "--set", "train.steps=30").stdout)
    assert trained["steps"] == 30
    stale = small(tmp_path, "measure", "run")
    assert stale.returncode == 2 and "earlier model" in json.loads(stale.stdout)["error"]
    drawn = small(tmp_path, "sample", "run")
    assert "drawn anew" in drawn.stderr and json.loads(drawn.stdout)["ess"] != finished[1]["ess"]


def test_an_ensemble_carried_by_few_proposals_is_called_so(tmp_path: Path):
    few, failed = analysis._warnings(3.2, 4096, 7, None)
    assert "only 3.2 of 4096" in few and "7 of 4096" in failed
    assert list(analysis._warnings(4000.0, 4096, 0, 1e-4)) == []
    (heavy,) = analysis._warnings(150.0, 4096, 0, None, 0.3)
    assert "one of 4096 proposals carries 30%" in heavy
    with (tmp_path / "out").open("w") as stream:
        print_summary({"recipe": "a", "warnings": [few]}, stream)
    assert "Warning: only 3.2" in (tmp_path / "out").read_text()
