"""Whatever happens to the bytes of a file, reading it gives what was written or a clear error, and never anything else."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latflow.errors import DamagedFileError, FileError, LatflowError
from latflow.io import ensemble as ensemble_module
from latflow.io.checkpoints import Checkpoints
from latflow.io.ensemble import EnsembleFile
from latflow.io.model_file import TENSORS, load_model, read_description, save_model

QUICK = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=300,
)

fraction = st.floats(0, 1, exclude_max=True)
damage = st.one_of(
    st.tuples(st.just("truncate"), fraction),
    st.tuples(st.just("flip"), fraction, st.integers(0, 7)),
    st.tuples(st.just("overwrite"), fraction, st.binary(min_size=1, max_size=64)),
    st.tuples(st.just("zero"), fraction, st.integers(1, 5000)),
    st.tuples(st.just("exchange"), fraction, fraction, st.integers(1, 64)),
    st.tuples(st.just("replace"), st.binary(max_size=200)),
    st.tuples(st.just("append"), st.binary(min_size=1, max_size=64)),
)


def damaged(data: bytes, how: tuple) -> bytes:
    out = bytearray(data)
    if not out:
        return data
    kind, *parameters = how
    at = int(parameters[0] * len(out)) if isinstance(parameters[0], float) else 0
    match kind:
        case "truncate":
            del out[at:]
        case "flip":
            out[at] ^= 1 << parameters[1]
        case "overwrite":
            out[at : at + len(parameters[1])] = parameters[1][: len(out) - at]
        case "zero":
            length = min(parameters[1], len(out) - at)
            out[at : at + length] = bytes(length)
        case "exchange":
            other, length = int(parameters[1] * len(out)), parameters[2]
            first, second = sorted((at, other))
            length = min(length, second - first, len(out) - second)
            a, b = out[first : first + length], out[second : second + length]
            out[first : first + length], out[second : second + length] = b, a
        case "replace":
            out = bytearray(parameters[0])
        case "append":
            out += parameters[0]
    return bytes(out)


COLUMNS = {"x": ((), "f8"), "field": ((2, 2), "c8"), "rare": ((3,), "i4", 3)}


def row_block(start: int, count: int, salt: float = 0) -> dict[str, np.ndarray]:
    i = np.arange(start, start + count)
    every = i[(i + 1) % 3 == 0]
    return {
        "x": np.cos(i + salt),
        "field": (i.reshape(-1, 1, 1) + 1j * np.arange(4).reshape(1, 2, 2)).astype(np.complex64),
        "rare": np.repeat(every[:, None], 3, 1).astype(np.int32),
    }


def everything(path: Path, mode: str = "r") -> list:
    with EnsembleFile.open(path, mode) as file:
        n = file.n_committed
        state = [file.read_state()["s"].tobytes(), file.theory, file.settings, file.metadata, file.kind]
        return [n, *state, *(file.read(name).tobytes() for name in COLUMNS)]


class Pristine(NamedTuple):
    """An intact file, its bytes and what reading it gives."""

    path: Path
    data: bytes
    contents: list

    def __repr__(self) -> str:
        return str(self.path)


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory) -> Pristine:
    path = tmp_path_factory.mktemp("ensemble") / "e.h5"
    theory = {"kind": "phi4", "lattice": [2, 2]}
    with EnsembleFile.create(
        path, "flow", theory, COLUMNS, metadata={"made": "here"}, state={"s": np.arange(9.0)}, capacity=24
    ) as f:
        f.append(row_block(0, 11), {"s": np.arange(9.0) + 1})
        f.append(row_block(11, 9), {"s": np.arange(9.0) + 2})
    return path, path.read_bytes(), everything(path)


@QUICK
@given(how=st.lists(damage, min_size=1, max_size=3), mode=st.sampled_from("ra"))
def test_a_damaged_ensemble_is_refused_or_harmless(ensemble, how, mode):
    path, data, expected = ensemble
    for one in how:
        data = damaged(data, one)
    path.write_bytes(data)
    try:
        found = everything(path, mode)
    except FileError as error:
        assert "e.h5" in error.cause and error.remedy
    else:
        assert found == expected


def test_every_flipped_bit_that_matters_is_noticed(ensemble):
    path, data, expected = ensemble
    refused = 0
    positions = [*range(len(data) - 1, 0, -13), *range(160)]
    for position in positions:
        path.write_bytes(damaged(data, ("flip", position / len(data) + 1e-9, position % 8)))
        try:
            assert everything(path) == expected
        except FileError:
            refused += 1
    # Unnoticed go changes of the user block's padding, of rows not yet written, and of the counter's copy for other programs.
    assert refused > len(positions) / 2


step = st.one_of(st.tuples(st.just("append"), st.integers(0, 9)), st.just(("crash", 4)), st.just(("reopen", 0)))


@settings(QUICK, max_examples=60)
@given(steps=st.lists(step, max_size=8), capacity=st.integers(1, 20))
def test_any_sequence_of_appends_crashes_and_reopenings_keeps_exactly_the_committed_rows(tmp_path, steps, capacity):
    path = tmp_path / "e.h5"
    file = EnsembleFile.create(path, "flow", None, COLUMNS, state={"s": np.zeros(2)}, capacity=capacity)
    n = 0
    for kind, count in steps:
        if kind == "append":
            file.append(row_block(n, count), {"s": np.full(2, n + count) * 1.0})
            n += count
        elif kind == "crash":
            with pytest.MonkeyPatch.context() as patch, pytest.raises(FileError):
                patch.setattr(ensemble_module.os, "fdatasync", _fail)
                file.append(row_block(n, count, salt=1), {"s": np.full(2, -1.0)})
        else:
            file.close()
            file = EnsembleFile.open(path, "a")
        assert file.n_committed == n
        np.testing.assert_array_equal(file.read_state()["s"], n)
        for name, expected in row_block(0, n).items():
            np.testing.assert_array_equal(file.read(name), expected)
    file.close()


def _fail(_: int) -> None:
    raise OSError(28, "No space left on device")


MODEL = {"a": jnp.arange(5.0), "b": jnp.asarray([[1 + 2j, 3j]]), "c": jnp.float32(0.5)}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Pristine:
    directory = tmp_path_factory.mktemp("model")
    save_model(directory, MODEL, {"theory": "phi4", "numbers": [1, 2.5]})
    return Pristine(directory, (directory / TENSORS).read_bytes(), [])


@QUICK
@given(how=st.lists(damage, min_size=1, max_size=3))
def test_a_damaged_model_is_refused(model, how):
    directory, pristine, _ = model
    data = pristine
    for one in how:
        data = damaged(data, one)
    (directory / TENSORS).write_bytes(data)
    if data == pristine:
        assert read_description(directory) == {"theory": "phi4", "numbers": [1, 2.5]}
        found = load_model(directory, MODEL)
        assert all(np.array_equal(found[k], MODEL[k]) for k in MODEL)
        return
    for read in (lambda: load_model(directory, MODEL), lambda: read_description(directory)):
        with pytest.raises(DamagedFileError, match=TENSORS.replace(".", r"\.")):
            read()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint") / "pristine"
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(3, {**MODEL, "key": jax.random.key(1)}, {"seconds": 1.5})
    return directory


@settings(QUICK, max_examples=25)
@given(which=fraction, how=damage)
def test_a_damaged_checkpoint_is_refused_or_harmless(checkpoint, which, how):
    directory = checkpoint.with_name("damaged")
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(checkpoint, directory)
    files = sorted(p for p in directory.rglob("*") if p.is_file() and p.stat().st_size)
    victim = files[int(which * len(files))]
    victim.write_bytes(damaged(victim.read_bytes(), how))
    template = {**jax.tree.map(jnp.zeros_like, MODEL), "key": jax.random.key(0)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Checkpoints(directory) as checkpoints:
                found = checkpoints.restore(template)
        except LatflowError as error:
            assert error.remedy
        else:
            assert found.step == 3 and found.extra == {"seconds": 1.5}
            assert all(np.array_equal(found.tree[k], MODEL[k]) for k in MODEL)
            assert np.array_equal(jax.random.key_data(found.tree["key"]), jax.random.key_data(jax.random.key(1)))
