"""Runs with pseudofermions in place of the determinant, from a configuration to a summary and a figure."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from inner_runs import do, summary_of
from safetensors.numpy import load_file

from latflow.app.config import ConfigError, validate
from latflow.app.output import Output
from latflow.app.reproduce import figures, reproduce
from latflow.app.reproduce.figures import FIGURES, Part
from latflow.errors import LatflowError, MismatchError
from latflow.io.ensemble import EnsembleFile
from latflow.statistics.draws import averaged

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
[pseudofermions]
kind = "network"
hasenbusch = [0.3]
layers = 2
n_pt = 2
hidden = [4]
kernel_size = 1
reach = 2
gain = 0.02
draws = "auto"
[prior]
kind = "exact"
beta = 1.2
[flow]
kind = "identity"
[train]
steps = 4
batch_size = 8
log_every = 2
checkpoint_every = 2
evaluate = 64
[sample]
num_samples = 512
batch_size = 128
[measure]
observables = ["plaquette", "q"]
wilson_loops = []
pion = "none"
[baseline]
kind = "hmc"
chains = 8
thermalisation = 10
trajectories = 32
num_steps = 4
target_acceptance = "none"
"""
RAW = {
    "name": "x",
    "theory": {"kind": "u1", "lattice": [4, 4], "beta": 1.0},
    "fermions": {"kind": "wilson", "kappa": 0.2},
    "pseudofermions": {"kind": "factorised"},
    "baseline": {"kind": "none"},
}


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    where = tmp_path_factory.mktemp("joint")
    (where / "tiny.toml").write_text(TINY)
    do("run", where / "tiny.toml", where / "run")
    return where


def test_a_joint_run(where):
    run = where / "run"
    summary, chosen = summary_of(run), json.loads((run / "draws.json").read_text())
    found = summary["pseudofermions"]
    assert found["draws"] == chosen["draws"] and found["monomials"] == 2 and found["failed"] == 0
    assert chosen["seconds_per_configuration"] > 0 < chosen["seconds_per_draw"]
    # the incomplete factor of reach 2 on 4x4 is near the operator: draws cost little of the marginal's ESS
    assert 0.5 * found["marginal_ess"]["value"] < summary["ess"]["value"] < 1.05 * found["marginal_ess"]["value"]
    lines = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
    assert all(0 < line["joint_ess"] <= 1 and 0 < line["marginal_ess"] <= 1 for line in lines)
    spectra = json.loads((run / "provenance.json").read_text())["stages"]["sample"]["spectra"]
    assert [s["heavier"] for s in spectra] == [0.3, None] and all(s["condition"] >= 1 for s in spectra)
    page = (run / "report.html").read_text()
    assert "Pseudofermions" in page and "det M / det(M + 0.3)" in page
    rows = summary["observables"]["plaquette"]
    distance = abs(rows["value"] - rows["baseline"]["value"])
    assert distance < 5 * np.hypot(rows["error"], rows["baseline"]["error"])


def test_resumes_with_the_same_draws(where):
    """More proposals of the same run: the old ones stay, and the pilot run is not repeated."""
    run = where / "run"
    with EnsembleFile.open(run / "ensemble.h5") as file:
        before = file.read("action")
    stamp = (run / "draws.json").stat().st_mtime_ns
    do("sample", where / "tiny.toml", run, "sample.num_samples=640")
    with EnsembleFile.open(run / "ensemble.h5") as file:
        assert np.array_equal(file.read("action")[:512], before) and file.n_committed == 640
    assert (run / "draws.json").stat().st_mtime_ns == stamp
    with pytest.raises(MismatchError, match="arrangement"):
        do("sample", where / "tiny.toml", run, "pseudofermions.arrangement=orthogonal")
    (run / "draws.json").write_text("{}")
    with pytest.raises(LatflowError, match=r"draws.json is damaged"):
        do("sample", where / "tiny.toml", run, "sample.num_samples=700")


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("fermions.kappa=0.2", "kappa"),
        ("fermions.boundary=[0.0, 0.0]", "boundary"),
        ("pseudofermions.hasenbusch=[0.2]", "hasenbusch"),
        ("pseudofermions.even_odd=false", "even_odd"),
    ],
)
def test_a_conditional_flow_is_for_one_operator(where, setting, named):
    """Refused by name, as the model of the run and as where a training starts."""
    start = f'train.start_from="{where / "run"}"'
    with pytest.raises(MismatchError, match=named):
        do("train", where / "tiny.toml", where / f"other-{named}", setting, start)


FLOW = ("flow.kind=u1-coupling", "flow.mask=stripes", "flow.blocks=1", "flow.hidden=[4]", "flow.bins=4", "baseline.kind=none")


def _tensors(run):
    return load_file(run / "model" / "model.safetensors")


def test_stage_after_stage(where):
    """A flow of the gauge field, trained with the exact determinant, is frozen in the joint model that starts from it."""
    alone, staged = where / "alone", where / "staged"
    tiny = where / "tiny.toml"
    do("train", tiny, alone, *FLOW, "pseudofermions.kind=none", "train.evaluate=0")
    start = (*FLOW, f'train.start_from="{alone}"', "train.evaluate=0")
    do("train", tiny, staged, *start, "train.stage=conditional")
    before, after = _tensors(alone), _tensors(staged)
    kept = {name: value for name, value in after.items() if "marginal" in name}
    assert len(kept) == len(before) < len(after)
    for (_, ours), (_, theirs) in zip(sorted(kept.items()), sorted(before.items()), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(MismatchError, match="bins"):
        do("train", tiny, where / "staged-no", *start, "flow.bins=6")


def test_conditionals_on_a_stored_ensemble(where):
    """Trained on configurations of the pure gauge theory, whose weights are then estimates of the determinant."""
    run = where / "stored"
    settings = (
        "prior.kind=ensemble",
        "prior.beta=1.0",
        "prior.configurations=128",
        "prior.thermalisation=5",
        "prior.separation=1",
    )
    do("run", where / "tiny.toml", run, *settings, "sample.num_samples=128", "sample.batch_size=64", "pseudofermions.draws=2")
    summary = summary_of(run)
    assert summary["prior"]["kind"] == "ensemble" and 0 < summary["ess"]["value"] <= 1
    with EnsembleFile.open(run / "ensemble.h5") as file:
        log_weight, estimates = -file.read("action") - file.read("log_q"), file.read("log_det_estimates")
    np.testing.assert_allclose(log_weight, averaged(estimates, np.arange(2)), atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fermions": {"kind": "none"}}, "no fermions"),
        ({"fermions": {"kind": "wilson", "kappa": 0.2, "flavours": 1}}, "two flavours"),
        ({"theory": {"kind": "u1", "lattice": [4, 5], "beta": 1.0}}, "even extents"),
        ({"pseudofermions": {"kind": "factorised", "hasenbusch": [0.2, 0.1]}}, "ascend"),
        ({"pseudofermions": {"kind": "factorised", "hasenbusch": [1e-6]}}, "lightest mass"),
        ({"pseudofermions": {"kind": "network", "n_pt": 1}}, "two steps"),
        ({"pseudofermions": {"kind": "network", "partition": "alternating", "layers": 3}}, "multiple of 2"),
        ({"pseudofermions": {"kind": "network", "partition": "rotating", "layers": 6}}, "four dimensions"),
        ({"pseudofermions": {"kind": "network", "hidden": []}}, "channels"),
        ({"train": {"steps": 10, "estimator": "score"}, "flow": {"kind": "u1-coupling"}}, '"path" or "plain"'),
        ({"pseudofermions": {"kind": "network", "kernel_size": 2}}, "odd"),
        ({"pseudofermions": {"kind": "network"}, "train": {"estimator": "score"}}, '"path" or "plain"'),
        ({"pseudofermions": {"kind": "network"}, "train": {"stage": "marginal"}}, "nothing to train"),
        ({"train": {"steps": 10, "stage": "conditional"}, "flow": {"kind": "u1-coupling"}}, "nothing to train"),
        ({"pseudofermions": {"kind": "none"}, "train": {"stage": "conditional"}}, "is for joint models"),
        ({"flow": {"kind": "none"}}, "proposes nothing"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        validate({**RAW, **changes})


def test_failed_solves_are_named(where):
    """They are counted and the remedy is given, in the pilot run as afterwards."""
    untrained = ("pseudofermions.kind=gaussian", "train.steps=0", "train.evaluate=0")
    small = ("sample.num_samples=64", "sample.batch_size=32", "baseline.kind=none")
    few = (*untrained, *small, "pseudofermions.max_iterations=13")
    with pytest.raises(LatflowError, match=r"pilot run has a finite weight.*max_iterations"):
        do("run", where / "tiny.toml", where / "none", *few, "pseudofermions.max_iterations=2")
    do("run", where / "tiny.toml", where / "failed", *few, "pseudofermions.draws=2")
    summary = summary_of(where / "failed")
    failed = summary["pseudofermions"]["failed"]
    assert 0 < failed < 256
    assert any(w.startswith(f"{failed} solves for pseudofermions") and "max_iterations" in w for w in summary["warnings"])
    assert any("infinite variance" in w for w in summary["warnings"])


def test_a_figure(where, monkeypatch):
    """Parts are run where they are missing, and the page has the paper's numbers."""
    part = Part("part", str(where / "tiny.toml"), ("pseudofermions.draws=2", "sample.num_samples=256", "train.steps=2"))
    for name in ("fig2", "fig3", "fig6", "qcd-fig3"):
        monkeypatch.setitem(FIGURES, name, dataclasses.replace(FIGURES[name], parts=(part,)))
    with Output(True, True).guard() as output:
        made = {name: reproduce(name, "minutes", where / "figures", False, output) for name in ("fig2", "fig3", "fig6")}
        residuals = reproduce("qcd-fig3", "minutes", where / "figures", False, output)
    numbers = {row["quantity"]: row for row in made["fig2"]["numbers"]}
    assert numbers["joint ESS, one draw"]["paper"] == "0.05" and numbers["marginal ESS"]["here"] != "\N{EN DASH}"
    assert any("χ²" in row["quantity"] for row in made["fig6"]["numbers"])
    assert float(residuals["numbers"][0]["here"]) > 0
    page = (where / "figures" / "fig3.html").read_text()
    assert "<svg" in page and "part/report.html" in page
    with pytest.raises(LatflowError, match="did you mean fig7"), Output(True, True).guard() as output:
        reproduce("fig77", "minutes", None, False, output)
    with pytest.raises(LatflowError, match="no budget"), Output(True, True).guard() as output:
        reproduce("fig2", "hours", None, False, output)


def test_figures_are_valid_runs():
    """Every part of every figure, in both budgets, is a configuration without mistakes."""
    from latflow.app.targets import load

    for figure in FIGURES.values():
        for part in figure.parts:
            for budget in figures.BUDGETS:
                config, _ = load(part.recipe, part.overrides(budget))
                assert config.is_joint
