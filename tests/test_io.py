"""Files survive crashes, full disks and damage, or say clearly that they did not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import h5py
import numpy as np
import pytest
from faults import file_size_limit

from latflow.errors import DiskFullError, FileError, Interrupted, LockedError, MismatchError
from latflow.interrupt import StopRequested
from latflow.io import ensemble as ensemble_module
from latflow.io.atomic import write_json, write_text
from latflow.io.ensemble import EnsembleFile
from latflow.io.run_lock import RunLock

THEORY = {"kind": "u1", "lattice": [4, 4], "beta": 2.0}
COLUMNS = {
    "log_q": ((), np.float64),
    "configurations": ((2, 3), np.float32),
    "measurements/loop": ((3,), np.complex128, 4),
    "accepted": ((), bool),
}


def rows(start: int, count: int) -> dict[str, np.ndarray]:
    """The rows that every test writes at these positions."""
    i = np.arange(start, start + count)
    every = i[(i + 1) % 4 == 0]
    return {
        "log_q": np.sin(1.0 + i),
        "configurations": (i[:, None, None] + np.arange(6).reshape(1, 2, 3) / 7).astype(np.float32),
        "measurements/loop": every[:, None] * np.array([[1, 1j, 2 + 1j]]),
        "accepted": i % 3 == 0,
    }


def check_rows(file: EnsembleFile, n: int) -> None:
    assert file.n_committed == n
    for name, expected in rows(0, n).items():
        np.testing.assert_array_equal(file.read(name), expected)


def test_rows_and_state_come_back_and_other_programs_can_read_them(tmp_path):
    path = tmp_path / "ensemble.h5"
    with EnsembleFile.create(path, "flow", THEORY, COLUMNS, state={"x": np.zeros(3)}, capacity=5) as file:
        assert file.n_committed == 0 and file.read("log_q").shape == (0,)
        for count in (3, 0, 4, 1, 9, 40):  # beyond the capacity, so the file must grow with its state
            n = file.n_committed
            file.append(rows(n, count), {"x": np.full(3, float(n + count))}, count)
            with EnsembleFile.open(path) as reader:
                assert reader.n_committed == n + count
    with EnsembleFile.open(path) as file:
        check_rows(file, 57)
        np.testing.assert_array_equal(file.read("log_q", -5, -2), rows(0, 57)["log_q"][-5:-2])
        np.testing.assert_array_equal(file.read_state()["x"], np.full(3, 57.0))
        assert file.theory == THEORY and file.kind == "flow" and file.rows("measurements/loop") == 14
        file.verify()
        with pytest.raises(FileError, match="no 'q2': it has log_q"):
            file.read("q2")
        with pytest.raises(ValueError, match="open for reading"):
            file.append(rows(57, 1))
    with h5py.File(path) as h5:
        assert h5.attrs["format"] == "latflow-ensemble" and json.loads(h5.attrs["theory"]) == THEORY
        for name, expected in rows(0, int(h5.attrs["n_committed"])).items():
            np.testing.assert_array_equal(h5[name][: len(expected)], expected)


@pytest.mark.parametrize(
    "wrong",
    [{"log_q": np.zeros(3)}, {"log_q": np.zeros(2, np.float32)}, {"log_q": None}, {"extra": np.zeros(2)}],
    ids=["length", "dtype", "missing", "unknown"],
)
def test_wrong_rows_are_refused_and_nothing_is_written(tmp_path, wrong):
    with EnsembleFile.create(tmp_path / "e.h5", "flow", THEORY, COLUMNS) as file:
        with pytest.raises(ValueError, match=r"log_q|unknown"):
            file.append({k: v for k, v in {**rows(0, 2), **wrong}.items() if v is not None}, count=2)
        check_rows(file, 0)


def test_a_failure_before_the_counter_leaves_rows_and_state_as_they_were(tmp_path, monkeypatch):
    path = tmp_path / "e.h5"
    with EnsembleFile.create(path, "flow", THEORY, COLUMNS, state={"x": np.zeros(3)}, capacity=50) as file:
        file.append(rows(0, 6), {"x": np.ones(3)})
        with monkeypatch.context() as patch, pytest.raises(FileError, match=r"Input/output error.*check the disk"):
            patch.setattr(ensemble_module.os, "fdatasync", _fail)
            file.append({k: v + v for k, v in rows(6, 6).items()}, {"x": np.full(3, 9.0)})
        check_rows(file, 6)
    with EnsembleFile.open(path, "a") as file:
        np.testing.assert_array_equal(file.read_state()["x"], np.ones(3))
        file.append(rows(6, 7), {"x": np.full(3, 2.0)})
        check_rows(file, 13)


def _fail(_: int) -> None:
    raise OSError(5, "Input/output error")


_WRITER = """
import sys
import h5py  # growing needs it, and must not wait for it here
import numpy as np
from latflow.io.ensemble import EnsembleFile
assert "jax" not in sys.modules
columns = {{"x": ((7,), "f8"), "y": ((), "i8", 3)}}
with EnsembleFile.open_or_create({path!r}, "flow", None, columns, state={{"s": np.zeros(500, np.int64)}}, capacity=4) as file:
    print("ready", flush=True)
    while True:
        n = file.n_committed
        i = np.arange(n, n + 1 + n % 5)
        file.append({{"x": i[:, None] * np.ones((1, 7)), "y": i[(i + 1) % 3 == 0]}}, {{"s": np.full(500, n + len(i))}})
"""


def test_kill_at_any_moment_leaves_a_readable_consistent_file(tmp_path):
    path = tmp_path / "e.h5"
    rng = random.Random(7)
    reached = [0]
    for _ in range(8):
        child = subprocess.Popen([sys.executable, "-c", _WRITER.format(path=str(path))], stdout=subprocess.PIPE)
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0, 0.15))
        child.kill()
        assert child.wait() == -signal.SIGKILL
        child.stdout.close()
        with EnsembleFile.open(path) as file:
            n = file.n_committed
            file.verify()
            np.testing.assert_array_equal(file.read("x"), np.arange(n)[:, None] * np.ones((1, 7)))
            np.testing.assert_array_equal(file.read("y"), np.arange(2, n, 3))
            np.testing.assert_array_equal(file.read_state()["s"], np.full(500, n))
        with h5py.File(path) as h5:
            np.testing.assert_array_equal(h5["x"][:n, 0], np.arange(n))
        assert n >= reached[-1]
        reached.append(n)
    assert reached[-1] > 50


def test_a_full_disk_is_reported_and_earlier_rows_stay(tmp_path):
    path = tmp_path / "e.h5"
    with EnsembleFile.create(path, "flow", THEORY, COLUMNS, capacity=20) as file:
        file.append(rows(0, 20))
        with file_size_limit(path.stat().st_size + 100), pytest.raises(DiskFullError, match=r"free some space.*intact"):
            file.append(rows(20, 1))
        check_rows(file, 20)
        assert [p.name for p in tmp_path.iterdir()] == ["e.h5"]
        file.append(rows(20, 30))
        check_rows(file, 50)
    for size in (300, 5_000, 100_000):
        with file_size_limit(size), pytest.raises(DiskFullError):
            EnsembleFile.create(tmp_path / "new.h5", "flow", THEORY, COLUMNS, capacity=10**5)
    assert [p.name for p in tmp_path.iterdir()] == ["e.h5"]


def test_one_writer_many_readers(tmp_path):
    path = tmp_path / "e.h5"
    with EnsembleFile.create(path, "flow", THEORY, COLUMNS, capacity=4) as file:
        for _ in range(2):
            with pytest.raises(LockedError, match="another process"):
                EnsembleFile.open(path, "a")
            with EnsembleFile.open(path) as reader:
                file.append(rows(file.n_committed, 5))  # grows the file under the reader
                check_rows(reader, file.n_committed - 5)
    EnsembleFile.open(path, "a").close()


def test_a_file_of_another_run_is_refused_with_the_keys_that_differ(tmp_path):
    path = tmp_path / "e.h5"
    settings = {"key": [0, 1], "batch_size": 8}
    EnsembleFile.create(path, "flow", THEORY, COLUMNS, settings=settings, state={"s": np.zeros(2)}).close()

    def reopen(kind="flow", theory=THEORY, columns=COLUMNS, settings=settings, state=np.zeros(2)):
        EnsembleFile.open_or_create(path, kind, theory, columns, settings=settings, state={"s": state}).close()

    reopen()
    with pytest.raises(MismatchError, match=r"theory\.beta is 2\.0 there and 3\.0 here; theory\.lam is absent there and 1"):
        reopen(theory={**THEORY, "beta": 3.0, "lam": 1})
    with pytest.raises(MismatchError, match=r"settings\.batch_size is 8 there and 16 here: use the same settings"):
        reopen(settings={**settings, "batch_size": 16})
    with pytest.raises(MismatchError, match=r"column\.q2 is absent there"):
        reopen(columns={**COLUMNS, "q2": ((), float)})
    with pytest.raises(MismatchError, match=r"state\.s is"):
        reopen(state=np.zeros(3))
    with pytest.raises(MismatchError, match="kind"):
        reopen(kind="chain")


def test_foreign_files_are_refused(tmp_path):
    target = tmp_path / "outside.h5"
    with h5py.File(target, "w") as h5:
        h5["log_q"] = np.zeros(3)
    linked = tmp_path / "linked.h5"
    with h5py.File(linked, "w") as h5:
        h5.attrs.update({"format": "latflow-ensemble", "version": 1, "kind": "flow", "theory": "{}", "n_committed": 3})
        h5["log_q"] = h5py.ExternalLink("outside.h5", "log_q")
    (tmp_path / "text.h5").write_text("hello")
    (tmp_path / "empty.h5").touch()
    for name in ("outside.h5", "linked.h5", "text.h5", "empty.h5"):
        with pytest.raises(FileError, match=rf"{name} is not an ensemble written by latflow"):
            EnsembleFile.open(tmp_path / name)
    with pytest.raises(FileError, match="does not exist"):
        EnsembleFile.open(tmp_path / "nothing.h5")
    with pytest.raises(FileError, match="directory"):
        EnsembleFile.open(tmp_path, "a")


def test_the_lock_names_its_holder_and_dies_with_it(tmp_path):
    code = textwrap.dedent(f"""
        import time
        from latflow.io.run_lock import RunLock
        with RunLock({str(tmp_path)!r}):
            print("locked", flush=True)
            time.sleep(60)
    """)
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"locked\n"
    with pytest.raises(LockedError, match=rf"in use by process {child.pid} on "), RunLock(tmp_path):
        pass
    child.kill()
    child.wait()
    child.stdout.close()
    for _ in range(2):
        with RunLock(tmp_path), pytest.raises(LockedError, match=str(os.getpid())), RunLock(tmp_path):
            pass
    with pytest.raises(FileError, match="does not exist"), RunLock(tmp_path / "nothing"):
        pass


def test_small_files_are_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": [1, 2.5]})
    with file_size_limit(1000), pytest.raises(DiskFullError, match=r"x\.json.*intact"):
        write_text(path, "x" * 2000)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))
    assert json.loads(path.read_text()) == {"a": [1, 2.5]} and [p.name for p in tmp_path.iterdir()] == ["x.json"]
    with pytest.raises(FileError, match="does not exist"):
        write_text(tmp_path / "nowhere" / "x", "x")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_at_the_next_check_and_a_second_one_at_once(signum):
    before = signal.getsignal(signum)
    with StopRequested() as stop:
        stop.check("nothing")
        assert not stop
        os.kill(os.getpid(), signum)
        assert stop
        with pytest.raises(Interrupted, match=f"stopped by {signum.name} after 3 of 9 steps.*run it again") as caught:
            stop.check("3 of 9 steps")
        assert caught.value.signum == signum
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signum)
            time.sleep(0.1)
    assert signal.getsignal(signum) is before
