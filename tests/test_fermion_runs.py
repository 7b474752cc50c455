"""Runs with dynamical fermions, from a configuration to a summary."""

from __future__ import annotations

import numpy as np
import pytest
from inner_runs import do, summary_of

from latflow.app.config import ConfigError, validate
from latflow.errors import LatflowError
from latflow.io.ensemble import EnsembleFile

TINY = """
name = "tiny"
seed = 3
precision = "double"
[theory]
kind = "u1"
lattice = [4, 4]
beta = 1.0
[fermions]
kind = "wilson"
kappa = 0.22
[prior]
kind = "exact"
beta = "auto"
learn = 1024
acceptance = 0.3
[flow]
kind = "identity"
[sample]
num_samples = 2048
batch_size = 512
[measure]
observables = ["plaquette", "q2"]
wilson_loops = []
[baseline]
kind = "hmc"
chains = 16
thermalisation = 20
trajectories = 80
num_steps = 6
target_acceptance = "none"
start = "cold"
"""
RAW = {
    "name": "x",
    "theory": {"kind": "u1", "lattice": [4, 4], "beta": 1.0},
    "fermions": {"kind": "wilson", "kappa": 0.2},
    "baseline": {"kind": "none"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    where = tmp_path_factory.mktemp("fermions")
    (where / "tiny.toml").write_text(TINY)
    do("run", where / "tiny.toml", where / "run")
    return where / "run"


def test_resampled_prior_and_pseudofermion_hmc_agree(run):
    summary = summary_of(run)
    tuned = summary["tuned_prior"]
    assert tuned["beta"] > 1.0  # fermions order the plaquettes
    assert summary["ess"]["value"] > 0.9 > tuned["ess_before"]
    rows = summary["observables"]
    assert {"pion_mass", "condensate", "plaquette", "q2"} <= set(rows)
    for name, row in rows.items():
        ours = [np.atleast_1d(np.asarray(row[key], float)) for key in ("value", "error")]
        theirs = [np.atleast_1d(np.asarray(row["baseline"][key], float)) for key in ("value", "error")]
        known = np.isfinite(ours[0]) & np.isfinite(theirs[0])
        distance = np.abs(ours[0] - theirs[0]) / np.hypot(ours[1], theirs[1])
        assert known.any() and np.all(distance[known] < 5), name
    assert summary["baseline"]["solver_failures"] == 0 and summary["baseline"]["solver_iterations"] > 1


def test_a_run_continues_and_a_lost_prior_is_made_again(run):
    before = summary_of(run)
    with EnsembleFile.open(run / "ensemble.h5") as file:
        action = file.read("action")
    (run / "prior.json").unlink()
    do("run", run, run, "sample.num_samples=2560")
    with EnsembleFile.open(run / "ensemble.h5") as file:
        np.testing.assert_array_equal(file.read("action")[:2048], action)
    assert summary_of(run)["tuned_prior"] == before["tuned_prior"]


def test_a_damaged_prior_is_named(run):
    text = (run / "prior.json").read_text()
    (run / "prior.json").write_text(text[: len(text) // 2])
    with pytest.raises(LatflowError, match="is damaged"):
        do("sample", run, run, "sample.num_samples=3072")
    (run / "prior.json").write_text(text)


def test_the_report_names_the_fermions(run):
    page = (run / "report.html").read_text()
    assert "Nf" in page and "pion" in page and "A function of its loops" in page


def test_baseline_alone_with_one_flavour(tmp_path):
    """One flavour: the determinant in HMC, and means over the sign."""
    (tmp_path / "one.toml").write_text(TINY.replace("kappa = 0.22", "kappa = 0.22\nflavours = 1"))
    overrides = ["flow.kind=none", "baseline.fermions=determinant", "baseline.trajectories=20", "baseline.chains=4"]
    do("run", tmp_path / "one.toml", tmp_path / "run", *overrides)
    rows = summary_of(tmp_path / "run")["observables"]
    assert abs(rows["det_sign"]["baseline"]["value"]) <= 1
    assert 0 < rows["plaquette"]["baseline"]["value"] < 1
    assert not (tmp_path / "run" / "ensemble.h5").exists()
    assert "no flow" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fermions": {"kind": "wilson", "kappa": -0.1}}, "fermions.kappa"),
        ({"fermions": {"kind": "wilson-yukawa", "mass": 0.1, "g": 0.1}}, "do not couple to u1"),
        ({"fermions": {"kind": "wilson", "kappa": 0.2, "boundary": [1.0]}}, "one angle per direction"),
        ({"theory": {"kind": "u1", "lattice": [4, 4, 4], "beta": 1.0}}, "needs 2 or 4 dimensions"),
        ({"fermions": {"kind": "none"}, "prior": {"kind": "exact", "beta": "auto"}}, "is exact already"),
        ({"prior": {"kind": "exact", "learn": 3}}, "at least 512"),
        ({"baseline": {"kind": "heatbath"}}, "no heatbath with dynamical fermions"),
        ({"baseline": {"kind": "hmc", "hasenbusch": [0.1, 0.01]}}, "must ascend"),
        ({"fermions": {"kind": "wilson", "kappa": 0.2, "flavours": 1}, "baseline": {"kind": "hmc"}}, "pairs of flavours"),
        ({"theory": {"kind": "u1", "lattice": [3, 4], "beta": 1.0}, "baseline": {"kind": "hmc"}}, "even extents"),
        ({"flow": {"kind": "none"}}, "nothing to do"),
        ({"train": {"estimator": "forward", "steps": 10}}, "exact samples"),
        ({"train": {"anneal_from": 1.0, "anneal_steps": 5, "steps": 10}}, "cannot be annealed"),
    ],
)
def test_mistakes_are_explained(changes, message):
    with pytest.raises(ConfigError, match=message):
        validate({**RAW, **changes})
