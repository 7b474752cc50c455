"""Stored ensembles as prior on the command line: drawn or read from files, mapped, reweighted, and models carried elsewhere."""

from __future__ import annotations

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_cli import latflow

from latflow.actions import WilsonGauge
from latflow.app import recipes_index
from latflow.app.config import ConfigError, read
from latflow.app.run_directory import RunDirectory
from latflow.errors import MismatchError
from latflow.groups import SUN
from latflow.io.ensemble import EnsembleFile
from latflow.io.nersc import write_nersc
from latflow.lattice import Geometry

TOML = """
name = "shift"
precision = "double"
[theory]
kind = "u1"
lattice = [4, 4]
beta = 2.3
[prior]
kind = "ensemble"
beta = 2.0
configurations = 1024
chains = 8
thermalisation = 20
separation = 2
[flow]
kind = "continuous"
steps = 2
modes = 1
[train]
steps = 40
batch_size = 32
learning_rate = 0.02
[sample]
num_samples = 1024
batch_size = 256
[measure]
observables = ["plaquette", "q2"]
[baseline]
kind = "none"
"""


def run(path, *extra, status=0):
    done = latflow("run", str(path), "--json", *extra)
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shift")
    (folder / "c.toml").write_text(TOML)
    return folder, run(folder / "c.toml", "--out", str(folder / "run"))


def test_reweighted_along_the_chains_and_better_than_without_the_flow(trained):
    folder, found = trained
    assert found["prior"] == {"kind": "ensemble", "beta": 2.0, "chains": 8}
    ess, alone = found["ess"], found["ess_prior"]
    assert ess["samples"] == 1024 and ess["value"] > 0.9 > alone["value"] + 5 * alone["error"]
    log_z = found["log_z"]
    assert 0 < log_z["error"] < 0.02 and abs(log_z["value"] - log_z["exact"]) < 5 * log_z["error"]
    for name in ("plaquette", "q2"):
        row = found["observables"][name]
        assert abs(row["value"] - row["exact"]) < 5 * row["error"], name
        assert row["reweighted"]["value"] == row["value"] and row["tau_int"] >= 0.4
    # without the flow: the same numbers from the stored configurations
    with EnsembleFile.open(folder / "run" / "prior.h5") as file:
        stored = file.read("configurations").reshape(-1, 2, 4, 4)
    with EnsembleFile.open(folder / "run" / "ensemble.h5") as file:
        found = file.read("log_weight_prior")
    from latflow.groups import U1

    energy = jax.vmap(WilsonGauge(Geometry((4, 4)), U1(), 1.0))(jnp.asarray(stored))
    np.testing.assert_allclose(found, -0.3 * np.asarray(energy), atol=1e-10)


def test_the_model_file_holds_parameters_only_and_more_configurations_may_follow(trained):
    folder = trained[0]
    assert (folder / "run" / "model" / "model.safetensors").stat().st_size < 4000
    shutil.copytree(folder / "run", folder / "more")
    found = run(
        folder / "c.toml",
        "--out",
        str(folder / "more"),
        "--set",
        "prior.configurations=1280",
        "--set",
        "sample.num_samples=1280",
    )
    assert found["ess"]["samples"] == 1280 and found["ess"]["value"] > 0.9
    with EnsembleFile.open(folder / "run" / "ensemble.h5") as a, EnsembleFile.open(folder / "more" / "ensemble.h5") as b:
        np.testing.assert_array_equal(a.read("log_q"), b.read("log_q", 0, 1024))
    with pytest.raises(MismatchError, match=r"prior.beta is 2.0 there and 1.9 now"):
        RunDirectory.open(folder / "run", read(folder / "c.toml", ["prior.beta=1.9"]))


def test_a_model_serves_another_volume_and_is_refused_elsewhere(trained):
    folder, _ = trained
    base = ["--set", f"train.start_from={folder / 'run'}", "--set", "train.steps=0", "--out", str(folder / "wide")]
    found = run(folder / "c.toml", *base, "--set", "theory.lattice=[6,8]")
    assert found["ess"]["value"] > 0.85 > found["ess_prior"]["value"] + 0.1
    assert abs(found["log_z"]["value"] - found["log_z"]["exact"]) < 5 * found["log_z"]["error"]
    description = json.loads((folder / "wide" / "model" / "model.json").read_text())["description"]
    assert description["start_from"] == str(folder / "run") and description["theory"]["lattice"] == [6, 8]
    base[-1] = str(folder / "other")
    base += ["--set", 'measure.observables=["plaquette"]']
    for change, reason in {
        "flow.modes=2": "flow.modes",
        "theory.lattice=[4,4,4]": "theory.dimensions",
        "precision=single": "precision",
        f"train.start_from={folder}": "holds no trained model",
    }.items():
        refused = run(folder / "c.toml", *base, "--set", change, status=2)["error"]
        assert reason in refused, refused
        assert not (folder / "other" / "prior.h5").exists()  # found out before anything was drawn


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (["prior.configurations=512"], "prior.configurations: 512 are fewer than sample.num_samples"),
        (["prior.chains=7"], "prior.configurations: 1024 configurations cannot be divided among 7 chains"),
        (["sample.num_samples=1020"], "prior.chains: sample.num_samples = 1020 is not a multiple"),
        (["prior.chains=256", "prior.configurations=1024"], "prior.chains: .* 4 configurations of each chain"),
        (["theory.lattice=[3,4]"], "prior.kind: the heatbath updates a checkerboard"),
        (["prior.kind=files", 'prior.files=["x"]'], "prior.kind: files hold SU"),
        (["train.estimator=forward"], 'prior.kind: the "forward" estimator'),
        (["flow.kind=identity", "train.steps=0", "train.start_from=x"], "train.start_from: the identity flow"),
    ],
)
def test_mistakes(tmp_path, change, problem):
    (tmp_path / "c.toml").write_text(TOML)
    with pytest.raises(ConfigError, match=problem):
        read(tmp_path / "c.toml", change)


def test_files_of_other_codes(tmp_path):
    """Haar links are the ensemble at beta = 0."""
    geometry, n = Geometry((4, 2, 2, 6)), 16
    links = jax.jit(lambda key: SUN(3).haar(key, (n, 4, *geometry.shape), jnp.complex128))(jax.random.key(0))
    links = np.moveaxis(np.asarray(links), 2, 0)
    for i, u in enumerate(links):
        write_nersc(tmp_path / f"cfg.{i}", u)
    (tmp_path / "c.toml").write_text(
        'name = "files"\nprecision = "double"\n[theory]\nkind = "sun"\nNc = 3\nlattice = [4, 2, 2, 6]\nbeta = 0.05\n'
        f'[prior]\nkind = "files"\nbeta = 0.0\nfiles = ["{tmp_path}/cfg.*"]\n[flow]\nkind = "identity"\n'
        "[sample]\nnum_samples = 16\nbatch_size = 8\nsave_configurations = true\n"
        '[measure]\nobservables = ["plaquette"]\n[baseline]\nkind = "none"\n'
    )
    found = run(tmp_path / "c.toml", "--out", str(tmp_path / "run"))
    with EnsembleFile.open(tmp_path / "run" / "ensemble.h5") as file:
        np.testing.assert_array_equal(file.read("configurations"), links)  # in the order of their numbers
        weights = -file.read("action") - file.read("log_q")
    action = WilsonGauge(geometry, SUN(3), 0.05)
    np.testing.assert_allclose(weights, [-float(action(jnp.asarray(u))) for u in links], rtol=1e-12)
    assert found["ess"]["value"] == pytest.approx(found["ess_prior"]["value"])
    refused = run(tmp_path / "c.toml", "--out", str(tmp_path / "no"), "--set", f'prior.files=["{tmp_path}/none.*"]', status=2)
    assert "there is no file" in refused["error"]
    refused = run(tmp_path / "c.toml", "--out", str(tmp_path / "no2"), "--set", "theory.lattice=[4,2,2,2]", status=2)
    assert "is of the lattice [4, 2, 2, 6], the theory of [4, 2, 2, 2]" in refused["error"]


def test_files_of_a_theory_with_fermions(tmp_path):
    """A factorisation that drops nothing has the exact determinant: no configuration has another weight than the rest."""
    geometry, n = Geometry((2, 2, 2, 4)), 16
    links = SUN(3).haar(jax.random.key(0), (n, 4, *geometry.shape), jnp.complex128)
    for i, u in enumerate(np.moveaxis(np.asarray(links), 2, 0)):
        write_nersc(tmp_path / f"cfg.{i}", u)
    (tmp_path / "c.toml").write_text(
        'name = "files"\nprecision = "double"\n[theory]\nkind = "sun"\nNc = 3\nlattice = [2, 2, 2, 4]\nbeta = 0.5\n'
        '[fermions]\nkind = "wilson"\nkappa = 0.08\n[pseudofermions]\nkind = "factorised"\nreach = "complete"\n'
        f'[prior]\nkind = "files"\nbeta = 0.5\ndynamical = true\nfiles = ["{tmp_path}/cfg.*"]\n[flow]\nkind = "identity"\n'
        "[sample]\nnum_samples = 16\nbatch_size = 16\n[measure]\nobservables = ['plaquette']\npion = 'none'\n"
        '[baseline]\nkind = "none"\n'
    )
    run(tmp_path / "c.toml", "--out", str(tmp_path / "run"))
    with EnsembleFile.open(tmp_path / "run" / "ensemble.h5") as file:
        np.testing.assert_allclose(-file.read("action") - file.read("log_q"), 0, atol=1e-6)
    with pytest.raises(ConfigError, match=r"prior\.dynamical"):
        read(tmp_path / "c.toml", ["fermions.kind=none", "pseudofermions.kind=none"])


def test_sweeps_need_extents_that_their_masks_divide():
    recipe = recipes_index.path("su3-4d-shift")
    assert read(recipe, ["theory.lattice=[4,4,4,8]"]).flow.width == 4
    with pytest.raises(ConfigError, match=r"flow\.width: the masks have period 4, which must divide every extent"):
        read(recipe, ["theory.lattice=[4,4,4,6]"])
