"""Checkpoints and published models: data come back exactly, or it is said why not."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from faults import file_size_limit, flip

from latflow.errors import DamagedFileError, DiskFullError, FileError, MismatchError
from latflow.io.checkpoints import Checkpoints
from latflow.io.model_file import DESCRIPTION, TENSORS, load_model, read_description, save_model

THEORY = {"kind": "u1", "lattice": [4, 4], "beta": 2.0}


def _training_state(size: int = 5) -> dict:
    return {
        "weights": jnp.arange(float(size)),
        "complex": jnp.asarray([1 + 2j, 3j]),
        "single": jnp.float32(0.1),
        "key": jax.random.key(5),
        "empty": jnp.zeros((0, 3)),
        "host": np.arange(3),
        "count": 7,
        "activation": jnp.tanh,
    }


def assert_same_tree(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if callable(x):
            assert x is y
            continue
        assert type(x) is type(y) and getattr(x, "dtype", None) == getattr(y, "dtype", None)
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.shape(x) == np.shape(y)
        np.testing.assert_array_equal(x, y)


def test_checkpoints_keep_the_last_and_pass_over_damaged_ones(tmp_path):
    state = _training_state()
    with Checkpoints(tmp_path / "c", keep=2) as checkpoints:
        assert checkpoints.latest() is None
        with pytest.raises(DamagedFileError, match="has no checkpoint: train first"):
            checkpoints.restore(state)
        for step in (10, 20, 30):
            checkpoints.save(step, {**state, "count": step}, {"seconds": step / 2})
        assert checkpoints.steps() == [20, 30]
        with pytest.raises(MismatchError, match=r"\['weights'\]\.shape is \[5\] there and \[6\] here"):
            checkpoints.restore(_training_state(6))
    with Checkpoints(tmp_path / "c") as checkpoints:
        found = checkpoints.restore(_training_state())
        assert found.step == 30 and found.extra == {"seconds": 15.0}
        assert_same_tree(found.tree, {**state, "count": 30})
        _damage(tmp_path / "c" / "30")
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            assert checkpoints.restore(state).step == 20
        assert any("step 30" in str(w.message) and "damaged" in str(w.message) for w in seen)
        checkpoints.save(25, state)
        assert checkpoints.steps() == [20, 25]
        for step in checkpoints.steps():
            _damage(tmp_path / "c" / str(step))
        with pytest.raises(DamagedFileError, match="damaged"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            checkpoints.restore(state)


def _damage(step: Path) -> None:
    for file in step.rglob("d/*"):
        flip(file, file.stat().st_size // 2)


def test_a_full_disk_leaves_earlier_checkpoints(tmp_path, capfd):
    state = {"noise": jax.random.normal(jax.random.key(0), (2000,))}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        with file_size_limit(2000), pytest.raises(DiskFullError, match=r"step 2.*earlier checkpoints are intact"):
            checkpoints.save(2, state)
        assert checkpoints.restore(state).step == 1
        checkpoints.save(2, state)
        assert checkpoints.restore(state).step == 2
    assert "Traceback" not in capfd.readouterr().err


_SAVER = """
import jax, jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
from latflow.io.checkpoints import Checkpoints
template = {{"x": jnp.zeros(1000), "step": 0}}
with Checkpoints({path!r}) as checkpoints:
    step = checkpoints.latest() or 0
    if step:
        restored = checkpoints.restore(template)
        assert restored.step == step == restored.tree["step"] and (restored.tree["x"] == step).all()
    print("ready", step, flush=True)
    while True:
        step += 1
        checkpoints.save(step, {{"x": jnp.full(1000, float(step)), "step": step}})
"""


def test_kill_while_saving_leaves_a_readable_checkpoint(tmp_path):
    rng = random.Random(3)
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", _SAVER.format(path=str(tmp_path))], stdout=subprocess.PIPE)
        assert child.stdout is not None and child.stdout.readline().startswith(b"ready")
        while not any(entry.name.isdigit() for entry in tmp_path.iterdir()):  # on a busy machine the first takes a while
            time.sleep(0.01)
        time.sleep(rng.uniform(0.3, 0.6))
        child.kill()
        assert child.wait() == -signal.SIGKILL
        child.stdout.close()
    with Checkpoints(tmp_path) as checkpoints, warnings.catch_warnings():
        warnings.simplefilter("error")
        found = checkpoints.restore({"x": jnp.zeros(1000), "step": 0})
        assert found.step >= 1 and (found.tree["x"] == found.step).all()


def _model(lattice: int = 4) -> dict:
    return {"a": jnp.arange(6.0).reshape(2, 3), "b": [jnp.full(lattice, 1 - 2j), jnp.float32(3)], "f": jnp.tanh, "n": 3}


def test_models_come_back_with_their_description(tmp_path):
    description = {"theory": THEORY, "note": "β"}
    save_model(tmp_path / "m", _model(), description)
    assert read_description(tmp_path / "m") == description
    assert json.loads((tmp_path / "m" / DESCRIPTION).read_text())["description"] == description
    assert_same_tree(
        load_model(tmp_path / "m", jax.tree.map(lambda x: x * 0 if isinstance(x, jax.Array) else x, _model())), _model()
    )
    arrays = {k: v for k, v in _model().items() if k in "ab"}
    save_model(tmp_path / "m", arrays, description)
    assert_same_tree(load_model(tmp_path / "m", jax.eval_shape(lambda: arrays)), arrays)
    with pytest.raises(MismatchError, match=r"\['b'\]\[0\]\.shape is \[4\] there and \[6\] here: use the settings"):
        load_model(tmp_path / "m", {k: v for k, v in _model(6).items() if k in "ab"})
    with pytest.raises(MismatchError, match=r"\['c'\] is absent there"):
        load_model(tmp_path / "m", {**arrays, "c": jnp.zeros(2)})
    with pytest.raises(FileError, match="does not exist"):
        load_model(tmp_path / "nothing", arrays)


def test_damaged_models_are_refused_and_a_full_disk_keeps_the_old_one(tmp_path):
    save_model(tmp_path, _model(), {"name": "old"})
    big = {**_model(), "a": jnp.zeros(5000)}
    with file_size_limit(3000), pytest.raises(DiskFullError, match="intact"):
        save_model(tmp_path, big, {"name": "new"})
    assert read_description(tmp_path) == {"name": "old"}
    assert sorted(p.name for p in tmp_path.iterdir()) == [DESCRIPTION, TENSORS]
    for position in (0, 9, 60, -1):
        flip(tmp_path / TENSORS, position)
        with pytest.raises(DamagedFileError, match=r"damaged: restore it from a copy, or train it again"):
            load_model(tmp_path, _model())
        flip(tmp_path / TENSORS, position)
    assert read_description(tmp_path) == {"name": "old"}
