"""Runs that are killed, stopped, doubled, damaged or out of disk: one message, nothing lost, the same result in the end."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from fault_runs import Run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latflow.app.inspection import describe, render
from latflow.errors import LatflowError
from latflow.io.ensemble import EnsembleFile

CONFIG = """
name = "tiny"
[theory]
kind = "phi4"
lattice = [4, 4]
m2 = 1.0
lam = 0.5
[flow]
kind = "scalar-coupling"
blocks = 1
hidden = [2]
[train]
steps = 200
batch_size = 8
log_every = 10
checkpoint_every = 20
estimator = "plain"
[sample]
num_samples = 4096
batch_size = 16
[measure]
observables = ["phi2", "magnetisation"]
[baseline]
kind = "none"
"""
KILLS = 30
KILLS_PER_STAGE = 5


class Lab:
    """Runs of one configuration, with an uninterrupted one to compare with."""

    def __init__(self, home: Path):
        self.home = home
        self.config = home / "tiny.toml"
        self.config.write_text(CONFIG)
        self.environment = {"LATFLOW_CACHE": str(home / "cache"), "JAX_PLATFORMS": "cpu"}
        self.number = 0
        self.reference = self.new()
        self.seconds: dict[str, float] = {}
        self.finish(self.reference)
        again = self.new()
        for command in ("train", "sample"):  # now that everything is compiled
            began = time.monotonic()
            self.run(command, again)
            self.seconds[command] = time.monotonic() - began
        assert results(again) == results(self.reference)

    def new(self) -> Path:
        self.number += 1
        return self.home / f"run{self.number}"

    def copy(self) -> Path:
        return Path(shutil.copytree(self.reference, self.new()))

    def trained(self) -> Path:
        """A new run that is trained and has not sampled yet."""
        directory = self.copy()
        (directory / "ensemble.h5").unlink()
        return directory

    def before(self, command: str) -> Path:
        return self.trained() if command == "sample" else self.new()

    def start(self, command: str, directory: Path, *options: str, **limits: Any) -> Run:
        self.number += 1
        arguments = [command, str(self.config), "--out", str(directory), *options]
        return Run(arguments, self.home / f"log{self.number}", self.environment, **limits)

    def run(self, command: str, directory: Path, *options: str, status: int = 0, **limits: Any) -> Run:
        run = self.start(command, directory, *options, **limits)
        assert run.wait() == status, run.err
        assert "Traceback" not in run.err
        return run

    def finish(self, directory: Path) -> None:
        for command in ("train", "sample"):
            self.run(command, directory)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("faults"))


def results(directory: Path) -> dict[str, Any]:
    """Everything a run computes, in a form in which equal means bit for bit."""
    model = safetensors.numpy.load_file(directory / "model/model.safetensors")
    log = [json.loads(line) for line in (directory / "train.jsonl").read_text().splitlines()]
    with EnsembleFile.open(directory / "ensemble.h5") as file:
        file.verify()
        columns = {name: file.read(name).tobytes() for name in file.columns}
    return {
        "model": {name: value.tobytes() for name, value in model.items()},
        "log": [(row["step"], row["loss"], row["ess"]) for row in log],
        "ensemble": columns,
    }


def progress(directory: Path, command: str) -> int:
    """A number that grows while a stage works."""
    if command == "train":
        log = directory / "train.jsonl"
        return log.stat().st_size if log.exists() else 0
    try:
        with EnsembleFile.open(directory / "ensemble.h5") as file:
            return file.n_committed
    except LatflowError:  # not there yet, or just being made
        return 0


def wait_for_progress(run: Run, directory: Path, command: str) -> bool:
    before = progress(directory, command)
    while run.process.is_alive():
        if progress(directory, command) > before:
            return True
        time.sleep(0.003)
    return False


def kill_somewhere(run: Run, directory: Path, command: str, seconds: float, rng: random.Random) -> bool:
    """SIGKILL at a random moment: in every second run any time after its start, else while it is known to be at work.
    Whether it came before the run ended."""
    if rng.random() < 0.5:
        time.sleep(rng.uniform(0.0, 0.7 * seconds))
    elif wait_for_progress(run, directory, command):
        time.sleep(rng.uniform(0.0, 0.2 * seconds))
    run.process.kill()
    status = run.wait()
    assert status in (0, -signal.SIGKILL), run.err
    return status != 0


def test_thirty_kills_at_random_moments_change_nothing(lab: Lab):
    rng, expected = random.Random(20240607), results(lab.reference)
    kills = {"train": 0, "sample": 0}
    while sum(kills.values()) < KILLS:
        directory = lab.new()
        for command in ("train", "sample"):
            for _ in range(KILLS_PER_STAGE):
                run = lab.start(command, directory)
                if not kill_somewhere(run, directory, command, lab.seconds[command], rng):
                    break
                kills[command] += 1
                if (directory / "config.toml").exists():
                    assert describe(directory)["damaged"] == {}
            lab.run(command, directory)
        assert results(directory) == expected
        shutil.rmtree(directory)
    assert min(kills.values()) >= KILLS // 5


@pytest.mark.parametrize(("command", "number"), [("train", signal.SIGTERM), ("sample", signal.SIGINT)])
def test_a_stop_signal_ends_a_run_cleanly_and_it_resumes(lab: Lab, command: str, number: signal.Signals):
    directory = lab.before(command)
    run = lab.start(command, directory, "--json")
    assert wait_for_progress(run, directory, command)
    os.kill(run.process.pid or 0, number)
    status = run.wait()
    if status:  # a run that was all but done may end first
        document = json.loads(run.out)
        assert status == document["exit_status"] == 128 + number
        assert f"stopped by {number.name}" in document["error"] and "run it again" in document["error"]
        if command == "train":
            assert any(entry.name.isdigit() for entry in (directory / "checkpoints").iterdir())
    assert "Traceback" not in run.err
    lab.finish(directory)
    ours, theirs = results(directory), results(lab.reference)
    # a line of the log averages over the steps of one session since the line before
    assert [row[0] for row in ours.pop("log")] == [row[0] for row in theirs.pop("log")]
    assert ours == theirs


def test_a_second_process_on_a_run_directory_is_refused(lab: Lab):
    directory = lab.new()
    first = lab.start("train", directory)
    assert wait_for_progress(first, directory, "train")
    os.kill(first.process.pid or 0, signal.SIGSTOP)  # it holds the directory for as long as this takes
    try:
        second = lab.run("train", directory, "--json", status=2)
        fresh = lab.run("run", directory, "--fresh", status=2)
        assert "in use by process" in json.loads(second.out)["error"] and "--out" in fresh.err
    finally:
        os.kill(first.process.pid or 0, signal.SIGCONT)
    assert first.wait() == 0
    assert (directory / "model/model.safetensors").read_bytes() == (lab.reference / "model/model.safetensors").read_bytes()


@pytest.mark.parametrize(("command", "limit"), [("train", 2000), ("sample", 50_000)])
def test_a_full_disk_is_explained_and_costs_nothing(lab: Lab, command: str, limit: int):
    directory = lab.before(command)
    run = lab.run(command, directory, "--json", status=2, max_file_bytes=limit)
    error = json.loads(run.out)["error"]
    assert "free some space" in error and str(directory) in error
    lab.finish(directory)
    assert results(directory) == results(lab.reference)


def flip(path: Path, where: float = 0.5) -> bytes:
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 0x10
    path.write_bytes(bytes(data))
    return bytes(data)


def test_damaged_and_foreign_files_are_named_and_kept(lab: Lab):
    directory = lab.copy()
    model, ensemble = directory / "model/model.safetensors", directory / "ensemble.h5"

    altered = flip(model)
    run = lab.run("sample", directory, status=2)
    assert "damaged" in run.err and f"delete {model.parent}" in run.err
    assert model.read_bytes() == altered and ensemble.read_bytes() == (lab.reference / "ensemble.h5").read_bytes()

    # the remedy it names works: the model is written again from the checkpoint
    shutil.rmtree(model.parent)
    lab.finish(directory)
    assert results(directory) == results(lab.reference)

    truncated = ensemble.read_bytes()[: ensemble.stat().st_size // 3]
    ensemble.write_bytes(truncated)
    run = lab.run("measure", directory, "--json", status=2)
    assert str(ensemble) in json.loads(run.out)["error"] and ensemble.read_bytes() == truncated


def test_a_model_of_another_lattice_is_refused(lab: Lab):
    other = lab.new()
    lab.run("train", other, "--set", "theory.lattice=[8,4]", "--set", "train.steps=0")
    directory = lab.new()
    directory.mkdir()
    shutil.copytree(other / "model", directory / "model")
    shutil.copy(lab.reference / "config.toml", directory)
    run = lab.run("sample", directory, status=2)
    assert "made for something else" in run.err and "theory.lattice is [8, 4] there and [4, 4] here" in run.err
    run = lab.run("train", other, status=2)
    assert "theory.lattice is [8, 4] there and [4, 4] now" in run.err and "--fresh" in run.err


def test_a_damaged_checkpoint_is_passed_over(lab: Lab):
    directory = lab.trained()
    shutil.rmtree(directory / "model")
    newest = max((directory / "checkpoints").iterdir(), key=lambda p: int(p.name))
    for file in newest.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    lab.finish(directory)
    assert results(directory) == results(lab.reference)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_inspect_survives_any_damage(lab: Lab, data: st.DataObject):
    directory = lab.home / "inspected"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(lab.reference, directory)
    files = sorted(p for p in directory.rglob("*") if p.is_file() and "checkpoints" not in p.parts)
    victim = data.draw(st.sampled_from(files))
    content = victim.read_bytes()
    if data.draw(st.booleans()) and content:
        cut = data.draw(st.integers(0, len(content) - 1))
        victim.write_bytes(content[:cut])
    else:
        where = data.draw(st.integers(0, max(0, len(content) - 1)))
        victim.write_bytes(content[:where] + data.draw(st.binary(min_size=1, max_size=8)) + content[where + 1 :])
    document = describe(directory)
    assert render(document) and json.dumps(document, default=str)


def test_results_are_numbers_that_can_be_compared(lab: Lab):
    with EnsembleFile.open(lab.reference / "ensemble.h5") as file:
        assert file.n_committed == 4096 and np.isfinite(file.read("log_q")).all()
        assert len(results(lab.reference)["log"]) == 20
