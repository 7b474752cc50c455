"""Continuous flows and SU(N) heatbath from the command line: the audit refuses, warns when forced, never mixes densities."""

from __future__ import annotations

import json

import numpy as np
from test_cli import latflow

from latflow.io.ensemble import EnsembleFile

SETTINGS = {
    "theory.lattice": "[4,4]",
    "flow.kind": "continuous",
    "flow.steps": "1",
    "train.steps": "12",
    "train.batch_size": "8",
    "train.learning_rate": "0.1",
    "train.warmup_steps": "0",
    "train.estimator": "plain",
    "sample.num_samples": "64",
    "sample.batch_size": "32",
    "baseline.kind": "none",
}


def test_audit_on_the_command_line(tmp_path):
    shown = latflow("show", "u1-4d").stdout
    (tmp_path / "c.toml").write_text(shown)
    run = tmp_path / "run"

    def go(*extra: str):
        overrides = [x for key, value in SETTINGS.items() for x in ("--set", f"{key}={value}")]
        done = latflow("run", str(tmp_path / "c.toml"), "--out", str(run), "--json", *overrides, *extra)
        return done.returncode, json.loads(done.stdout)

    status, refused = go("--set", "sample.refine=1")
    assert status == 2 and "sample.refine" in refused["error"]
    status, forced = go("--set", "sample.refine=1", "--set", "sample.max_audit=1000")
    assert status == 0, forced
    assert forced["audit"] > 1e-2
    assert any("integration error" in warning for warning in forced["warnings"])
    status, fine = go("--set", "sample.refine=24", "--set", "sample.max_audit=1000")
    assert status == 0 and fine["audit"] < 1e-2
    assert not any("integration error" in warning for warning in fine["warnings"])
    with EnsembleFile.open(run / "ensemble.h5") as file:  # all rows of the finer integration, none left of the crude one
        assert file.n_committed == 64 and np.max(file.read("audit")) == fine["audit"]


def test_su2_heatbath_as_baseline_agrees_with_the_closed_form(tmp_path):
    (tmp_path / "c.toml").write_text(
        'name = "su2"\n[theory]\nkind = "sun"\nNc = 2\nlattice = [4, 4]\nbeta = 0.4\n'
        '[prior]\nkind = "haar"\n[flow]\nkind = "identity"\n[train]\nsteps = 0\n[sample]\nnum_samples = 256\n'
        '[baseline]\nkind = "heatbath"\nchains = 8\ntrajectories = 200\nthermalisation = 20\n'
    )
    done = latflow("run", str(tmp_path / "c.toml"), "--out", str(tmp_path / "run"), "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)["observables"]["plaquette"]
    baseline = row["baseline"]
    assert 0 < baseline["error"] < 0.02
    assert abs(baseline["value"] - row["exact"]) < 5 * baseline["error"]
