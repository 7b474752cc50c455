"""The configuration reader: every mistake at once, nothing silently converted, and what is written reads back equal."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latflow.app import recipes_index
from latflow.app.config import Config, ConfigError, dumps, parse_toml, read, validate
from latflow.app.config.schema import SECTIONS, keys, models, paths
from latflow.app.targets import load
from latflow.errors import LatflowError

RAW = {name: parse_toml(recipes_index.text(name), name) for name in recipes_index.names()}
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def problems(raw: dict[str, Any], *overrides: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        validate(raw, overrides)
    assert all(path in str(caught.value) and message in str(caught.value) for path, message in caught.value.problems)
    return dict(caught.value.problems)


@pytest.mark.parametrize("name", recipes_index.names())
def test_recipes_are_valid_described_and_written_back_equal(name: str, tmp_path: Path):
    config, run_dir = load(name, [])
    assert run_dir is None and config.name == name and config.description and config.expected_time
    copy_of_it = tmp_path / "copy.toml"
    copy_of_it.write_text(dumps(config))
    assert read(copy_of_it) == config


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """Raw tables that are valid."""
    positive = st.floats(1e-6, 1e6, allow_nan=False)
    count = st.integers(1, 10**6)
    kind = draw(st.sampled_from(["u1", "sun", "phi4"]))
    even = st.sampled_from([4, 8, 12, 16])
    lattice = draw(st.lists(even, min_size=2, max_size=4))
    theory: dict[str, Any] = {"kind": kind, "lattice": lattice}
    if kind == "phi4":
        form = draw(st.sampled_from(["m2", "kappa"]))
        theory |= {form: draw(positive), "lam": draw(positive)}
    else:
        theory["beta"] = draw(st.one_of(st.integers(0, 50), st.floats(0, 50)))
    if kind == "sun":
        theory["Nc"] = draw(st.integers(2, 5))
    batch = draw(st.integers(1, 4096))
    raw: dict[str, Any] = {
        "name": draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)),
        "description": draw(st.text(max_size=30)),
        "seed": draw(st.integers(0, 2**63 - 1)),
        "precision": draw(st.sampled_from(["single", "double"])),
        "theory": theory,
        "sample": {"batch_size": batch, "num_samples": draw(st.integers(16, 10**7))},
    }
    if kind == "phi4" and draw(st.booleans()):
        raw["flow"] = {"kind": "scalar-coupling", "blocks": draw(count), "z2": draw(st.booleans())}
        raw["train"] = {"steps": draw(st.integers(1, 10**6)), "learning_rate": draw(positive)}
        raw["prior"] = draw(st.sampled_from([{"kind": "normal", "scale": 0.5}, {"kind": "free", "m2": 2}]))
    if draw(st.booleans()):
        raw["baseline"] = {"kind": "hmc", "tau": draw(positive), "num_steps": draw(count), "chains": draw(count)}
    return raw


@quick
@given(configurations())
def test_written_configuration_reads_back_equal(raw: dict[str, Any]):
    config = validate(raw)
    assert validate(parse_toml(dumps(config), "text")) == config


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
some_paths = st.sampled_from(paths())


@quick
@given(st.sampled_from(sorted(RAW)), st.dictionaries(some_paths | st.text(max_size=12), values, min_size=1, max_size=5))
def test_any_table_is_read_or_refused_with_a_message(name: str, changes: dict[str, Any]):
    raw = copy.deepcopy(RAW[name])
    for path, value in changes.items():
        section, dot, key = path.partition(".")
        if dot and isinstance(raw.get(section), dict):
            raw[section][key] = value
        else:
            raw[path] = value
    try:
        config = validate(raw)
    except ConfigError as error:
        assert error.problems and all(message for _, message in error.problems)
    else:
        assert validate(parse_toml(dumps(config), "text")) == config


@quick
@given(st.one_of(st.text(max_size=60), st.binary(max_size=60).map(lambda b: b.decode("latin-1"))))
def test_any_text_is_read_or_refused(text: str):
    try:
        validate(parse_toml(text, "some file"))
    except ConfigError as error:
        assert "some file" in str(error) or error.problems


@quick
@given(some_paths, st.text(max_size=12))
def test_any_override_is_applied_or_refused(path: str, value: str):
    try:
        validate(RAW["u1-2d"], [f"{path}={value}"])
    except ConfigError as error:
        assert error.problems


def _mistyped(word: str, position: int) -> str:
    return word[:position] + word[position + 1 :] + "x"


@quick
@given(st.data())
def test_every_misspelt_key_is_reported_with_what_was_meant(data: st.DataObject):
    raw = copy.deepcopy(RAW[data.draw(st.sampled_from(["u1-2d", "phi4-2d", "u1-4d"]))])
    candidates = [(s, k) for s in SECTIONS for k in raw.get(s, {}) if k != "kind" and len(k) > 5]
    wrong = data.draw(st.lists(st.sampled_from(candidates), min_size=1, max_size=4, unique=True))
    expected = {}
    for section, key in wrong:
        typo = _mistyped(key, data.draw(st.integers(1, len(key) - 1)))
        raw[section][typo] = raw[section].pop(key)
        expected[f"{section}.{typo}"] = key
    found = problems(raw)
    for path, key in expected.items():
        assert "unknown key" in found[path] and f"did you mean {key}?" in found[path]


def test_all_mistakes_of_all_kinds_come_in_one_message():
    raw = copy.deepcopy(RAW["u1-2d"])
    raw["flow"] = {"kind": "u1-coupling", "blocks": 4}
    raw["theory"] |= {"beta": -1.0, "lattice": [8, 8.0]}
    raw["prior"] = {"kind": "normall"}
    raw["flow"] |= {"mask": "Stripes", "transform": "affine"}
    raw["train"] |= {"batch_size": "64", "learning_rate": float("nan"), "warmup_steps": True, "estimator": "pathh"}
    raw["sample"] = [1]
    raw["measure"] = {"wilson_loops": [[0, 1], [1, 2, 3]]}
    raw["steps"] = 3
    found = problems(raw, "train.stepz=4", "seed=1.5", "nonsense")
    assert "equals the one at |beta|" in found["theory.beta"]
    assert found["theory.lattice[1]"] == "must be an integer, got 8.0"
    assert "did you mean normal?" in found["prior.kind"] and '"haar"' in found["prior.kind"]
    assert "did you mean stripes?" in found["flow.mask"]
    assert "belongs to flow.kind = scalar-coupling" in found["flow.transform"]
    assert found["train.batch_size"] == 'must be an integer, got "64"'
    assert "finite" in found["train.learning_rate"] and "integer" in found["train.warmup_steps"]
    assert "did you mean path?" in found["train.estimator"]
    assert "table" in found["sample"]
    assert "measure.wilson_loops[0][0]" in found and "measure.wilson_loops[1]" in found
    assert "did you mean flow.steps or train.steps?" in found["steps"]
    assert "did you mean train.steps?" in found["train.stepz"]
    assert "integer" in found["seed"] and "path=value" in found["nonsense"]


CONFLICTS = [
    ("u1-2d", ["theory.lattice=[6,8]", "flow.mask=stripes", "flow.blocks=4"], "flow.mask", "multiple of 4"),
    ("u1-2d", ["theory.lattice=[12,8]", "flow.mask=coarse-to-fine"], "flow.mask", "powers of two"),
    ("u1-2d", ["theory.lattice=[4,4,4,4]", "flow.mask=stripes", "flow.blocks=4"], "flow.mask", "diagonal"),
    ("u1-4d", ["flow.mask=stripes"], "flow.mask", "u1-coupling"),
    ("u1-4d", ["theory.lattice=[4,4,2,4]"], "flow.kind", "at least 3"),
    ("u1-2d", ["theory.lattice=[8]"], "theory.lattice", "2 to 4 dimensions"),
    ("u1-2d", ["theory.lattice=[1,8]"], "theory.lattice", "at least 2"),
    ("u1-2d", ["prior.kind=normal"], "prior.kind", "haar"),
    ("u1-2d", ["flow.kind=scalar-coupling", "flow.blocks=2"], "flow.kind", "u1-coupling"),
    ("u1-2d", ["measure.wilson_loops=[[1,9]]"], "measure.wilson_loops", "do not fit"),
    ("u1-2d", ["flow.kernel_size=4"], "flow.kernel_size", "odd"),
    ("u1-2d", ["train.batch_size=0"], "train.batch_size", "greater than or equal to 2"),
    ("u1-2d", ["sample.num_samples=1"], "sample.num_samples", "greater than or equal to 16"),
    ("u1-2d", ["train.warmup_steps=500000"], "train.warmup_steps", "shorter than the training"),
    ("u1-2d", ["train.anneal_from=1.0", "train.anneal_steps=0"], "train.anneal_from", "anneal_steps > 0"),
    ("u1-2d", ["flow.kind=identity"], "train.steps", "set steps = 0"),
    ("u1-2d", ["theory.lattice=[7,8]", "baseline.kind=heatbath"], "baseline.kind", "even extents"),
    ("u1-4d", ["prior.kind=exact"], "prior.kind", "two dimensions"),
    ("u1-2d", ["theory.lattice=[4,4,4,3]", "flow.mask=diagonal", "flow.blocks=4"], "flow.mask", "multiple of"),
    ("phi4-2d", ["theory.lattice=[7,8]"], "flow.kind", "even extents"),
    ("phi4-2d", ["theory.lam=-1"], "theory.lam", "no lower bound"),
    ("phi4-2d", ["theory.lam=0"], "theory.m2", "must be positive"),
    ("phi4-2d", ["theory.kappa=-0.2"], "theory.kappa", "must be positive"),
    ("phi4-2d", ["prior.kind=haar"], "prior.kind", "no normalised invariant measure"),
    ("phi4-2d", ["train.anneal_from=1.0", "train.anneal_steps=10"], "train.anneal_from", "gauge theories"),
    ("phi4-2d", ["baseline.kind=heatbath"], "baseline.kind", 'use "hmc"'),
    ("phi4-2d", ["measure.wilson_loops=[[1,1]]"], "measure.wilson_loops", "scalar theory"),
    ("phi4-2d", ["measure.observables=['plaquette']"], "measure.observables", "not for this theory"),
    ("u1-2d", ["measure.observables=['plaqette']"], "measure.observables", "did you mean 'plaquette'"),
    ("u1-2d", ["flow.blocks=0", "flow.mask=stripes"], "flow.blocks", "positive"),
    ("phi4-2d", ["train.estimator=forward"], "train.estimator", "exact samples"),
]


@pytest.mark.parametrize(("recipe", "overrides", "path", "reason"), CONFLICTS)
def test_sections_that_do_not_go_together(recipe: str, overrides: list[str], path: str, reason: str):
    found = problems(RAW[recipe], *overrides)
    assert reason in found[path]


def test_overrides():
    config = validate(
        RAW["u1-2d"],
        ["theory.beta=3", "theory.lattice=[16, 8]", "train.clip_norm=none", "precision=double", "baseline.kind=none", "name=a"],
    )
    assert config.theory.beta == 3.0 and config.theory.lattice == (16, 8)
    assert config.train.clip_norm is None and config.precision == "double" and config.name == "a"
    assert config.baseline.kind == "none"
    assert validate(RAW["u1-2d"], ["seed=2", "seed=3"]).seed == 3
    # naming kappa replaces m2; another kind drops the keys only the old one knows
    phi4 = validate(RAW["phi4-2d"], ["theory.kappa=0.2", "theory.lam=0.02"])
    assert phi4.theory.m2 is None and phi4.theory.kappa == 0.2
    exact = validate(RAW["u1-2d"], ["flow.kind=identity", "train.steps=0", "prior.kind=exact", "prior.beta=1.5"])
    assert exact.flow.model_dump() == {"kind": "identity"} and exact.prior.beta == 1.5


def test_defaults_follow_the_theory():
    gauge = validate({"name": "a", "theory": {"kind": "u1", "lattice": [4, 4], "beta": 1}})
    scalar = validate({"name": "a", "theory": {"kind": "phi4", "lattice": [4], "m2": 1, "lam": 0}})
    assert (gauge.prior.kind, scalar.prior.kind) == ("haar", "normal")
    assert gauge.flow.kind == "identity" and gauge.train.steps == 0 and gauge.baseline.kind == "hmc"


def test_every_kind_has_its_keys_and_every_path_its_section():
    coupling = {"u1-coupling", "sun-coupling", "scalar-coupling"}
    assert set(models("flow")) == {"identity", "none", "continuous", "residual-sweeps"} | coupling
    assert "beta" in keys("theory", "u1") and "lam" not in keys("theory", "u1") and "lam" in keys("theory")
    assert {"seed", "theory.beta", "train.steps", "prior.kind"} <= set(paths())
    assert set(SECTIONS) == {name for name in Config.model_fields if name in SECTIONS}


@pytest.mark.parametrize(
    ("target", "advice"),
    [("u1-3d", "did you mean"), ("missing.toml", "no such file"), ("", "is a directory but not a run directory")],
)
def test_targets_that_do_not_exist(target: str, advice: str, tmp_path: Path):
    with pytest.raises(LatflowError, match=advice):
        load(target or str(tmp_path), [])


def test_files_that_are_not_toml(tmp_path: Path):
    file = tmp_path / "a.toml"
    file.write_text("[theory\n")
    with pytest.raises(ConfigError, match="line 1"):
        read(file)
    file.write_bytes(b"name = '\xff'")
    with pytest.raises(ConfigError, match="UTF-8"):
        read(file)
