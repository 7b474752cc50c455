"""Observables along the gradient flow and of smeared links, from the configuration to the report and for files."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from report_runs import _store, make_run
from test_cli import latflow
from test_config import RAW, problems
from test_gradient_flow import abelian, rough

from latflow import statistics
from latflow.app import builders, configurations
from latflow.app.config import validate
from latflow.app.measurements import functions
from latflow.app.report import write_report
from latflow.app.report.run_data import load_run
from latflow.groups import U1
from latflow.io.ensemble import EnsembleFile
from latflow.io.nersc import write_nersc
from latflow.lattice import Geometry
from latflow.loops import wilson_loop
from latflow.observables import GradientFlow, SmearedLoops, derived, families, formulas
from latflow.observables.gauge import mean_wilson_loop
from latflow.observables.gradient_flow import energy_clover, energy_plaquette, gradient_flow, topological_charge_clover
from latflow.observables.smearing import Smearing
from latflow.samplers.measured import measured

APE = ["measure.smearing=ape", "measure.smearing_alpha=0.5", "measure.smearing_steps=2"]


@pytest.mark.parametrize(
    ("recipe", "overrides", "path", "reason"),
    [
        ("u1-2d", ["measure.flow_times=[0.2,0.1]"], "measure.flow_times", "increase"),
        ("u1-2d", ["measure.flow_times=[0.0,0.1]"], "measure.flow_times", "positive"),
        ("u1-2d", ["measure.flow_times=[]"], "measure.flow_times", "one at least"),
        ("u1-2d", ["measure.flow_step=0.0"], "measure.flow_step", "greater than 0"),
        ("u1-2d", ["measure.flow_times=[1e9]"], "measure.flow_step", "more than 100000 steps"),
        ("u1-2d", ["measure.flow_tolerance=1e-6"], "measure.flow_tolerance", "needs flow_times"),
        ("phi4-2d", ["measure.flow_times=[0.1]"], "measure.flow_times", "gauge fields"),
        ("u1-2d", ["measure.smearing=hyp"], "measure.smearing", '"ape"'),
        ("u1-2d", ["measure.smearing=ape"], "measure.smearing", "needs smearing_alpha and smearing_steps"),
        ("u1-2d", [*APE[:2]], "measure.smearing", "needs smearing_steps"),
        ("u1-2d", [APE[1]], "measure.smearing_alpha", "needs smearing ="),
        ("u1-2d", ["measure.smearing_spatial=true"], "measure.smearing_spatial", "needs smearing ="),
        ("u1-2d", [*APE, "measure.smearing_alpha=1.0"], "measure.smearing_alpha", "below 1"),
        ("u1-2d", [*APE, "measure.smearing_spatial=true"], "measure.smearing", "two directions of space"),
        ("u1-2d", [*APE, "measure.observables=['plaquette']"], "measure.smearing", "none is measured"),
        ("phi4-2d", APE, "measure.smearing", "gauge fields"),
    ],
)
def test_mistakes_in_the_configuration_are_named(recipe, overrides, path, reason):
    assert reason in problems(RAW[recipe], *overrides)[path]


def test_a_configuration_gives_what_the_library_gives_and_flows_once(monkeypatch):
    """4D SU(2), everything on: the columns of a batch against direct calls on one of its configurations."""
    overrides = ["measure.flow_times=[0.1,0.25]", "measure.flow_step=0.05", *APE, "measure.smearing_spatial=true"]
    overrides += ["measure.wilson_loops=[[1,2]]", "measure.observables=['plaquette']"]
    theory = {"kind": "sun", "Nc": 2, "lattice": [2, 2, 2, 2], "beta": 2.0}
    config = validate({"name": "a", "precision": "double", "theory": theory}, overrides)
    action = builders.build_action(config)
    group, geometry = action.group, action.geometry
    calls = []

    def counted(*args, **kwargs):
        calls.append(1)
        return gradient_flow(*args, **kwargs)

    monkeypatch.setattr(families, "gradient_flow", counted)
    links = rough(group, geometry.shape)
    fields = jnp.stack([jnp.conj(links), links], -1)
    columns = jax.jit(lambda x: measured(functions(config, action), x))(fields)
    assert len(calls) == 1
    flow_names = ["flow_charge", "flow_charge2", "flow_energy_clover", "flow_energy_plaquette"]
    names = ["plaquette", "wilson_loop_1x2", "smeared_temporal_loop_1x2", "smeared_temporal_loop_2x1", *flow_names]
    assert sorted(columns) == sorted(f"measurements/{name}" for name in names)
    found = {name: np.asarray(columns[f"measurements/{name}"])[1] for name in names}

    def along(u):
        return [f(group, geometry, u) for f in (energy_plaquette, energy_clover, topological_charge_clover)]

    @jax.jit
    def direct(u):
        smooth = Smearing("ape", 0.5, 2, spatial=True)(group, geometry, u)
        loops = [jnp.mean(group.re_trace(wilson_loop(group, geometry, smooth, 1, 2, mu, 0))) / 2 for mu in (1, 2, 3)]
        values = gradient_flow(group, geometry, u, [0.1, 0.25], along, step=0.05).values
        return *values, sum(loops) / 3, mean_wilson_loop(group, geometry, u, 1, 2)

    plaquette, clover, charge, smeared, loop = map(np.asarray, direct(links))
    t2 = np.array([0.1, 0.25]) ** 2
    np.testing.assert_allclose(found["flow_energy_plaquette"], t2 * plaquette, rtol=1e-10)
    np.testing.assert_allclose(found["flow_energy_clover"], t2 * clover, rtol=1e-10)
    np.testing.assert_allclose(found["flow_charge"], charge, atol=1e-12)
    np.testing.assert_allclose(found["flow_charge2"], charge**2, atol=1e-12)
    np.testing.assert_allclose(found["smeared_temporal_loop_1x2"], smeared, atol=1e-12)
    np.testing.assert_allclose(found["wilson_loop_1x2"], loop, atol=1e-12)


def test_families_in_other_dimensions_and_precisions():
    geometry = Geometry((4, 3, 4))
    theta = rough(U1(), geometry.shape).astype(jnp.float32)
    found = GradientFlow((0.1, 0.3), step=0.1, tolerance=1e-4).evaluate(U1(), geometry, theta)
    assert sorted(found) == ["flow_energy_clover", "flow_energy_plaquette"]
    assert all(values.shape == (2,) and values.dtype == jnp.float32 for values in found.values())
    everywhere = SmearedLoops(Smearing("stout", 0.1, 1), ((1, 2), (4, 1)))
    loops = everywhere.evaluate(U1(), geometry, theta)
    smooth = Smearing("stout", 0.1, 1)(U1(), geometry, theta)
    assert list(loops) == ["smeared_wilson_loop_1x2"]  # the other one does not fit
    assert loops["smeared_wilson_loop_1x2"] == pytest.approx(float(mean_wilson_loop(U1(), geometry, smooth, 1, 2)), abs=1e-6)
    with pytest.raises(ValueError, match="positive and increase"):
        GradientFlow((0.1, 0.1))
    with pytest.raises(ValueError, match="two observables are called 'a'"):
        measured({"a": jnp.sum, "both": lambda x: {"a": x[0]}}, jnp.ones((2, 3)))


TIMES = tuple(np.linspace(0.05, 3, 60))


@pytest.mark.parametrize("weighted", [False, True])
def test_scales_and_errors_of_a_known_curve(weighted):
    """t^2 E = a t^2 with fluctuating a: t_c = sqrt(c / a), w_0 = (0.3 / 2a)^(1/4), errors by hand."""
    rng = np.random.default_rng(5)
    a, q = 0.2 + 0.02 * rng.normal(size=400), rng.normal(size=400)
    log_weight = 0.2 * rng.normal(size=400)[:, None] if weighted else None
    curve = a[:, None] * np.square(TIMES)
    series = {"flow_energy_clover": curve, "flow_energy_plaquette": 2 * curve}
    series["flow_charge2"] = (q**2)[:, None] * np.ones(len(TIMES))
    obs = {name: statistics.observable(values[:, None], log_weight) for name, values in series.items()}
    found = {name: statistics.summary(x, 0.0) for name, x in derived(obs, Geometry((4, 4, 4, 4)), TIMES).items()}
    slope = statistics.summary(statistics.observable(a[:, None], log_weight), 0.0)
    A, relative = slope.value, slope.error / slope.value
    exact = {
        "t_0": (0.3 / A) ** 0.5,
        "t_0p35": (0.35 / A) ** 0.5,
        "t_0_plaquette": (0.15 / A) ** 0.5,
        "w_0": (0.15 / A) ** 0.25,
    }
    assert found.keys() == {*exact, "chi_top"}
    for name, value in exact.items():
        assert found[name].value == pytest.approx(value, rel=5e-4), name
        power = 0.25 if name == "w_0" else 0.5
        assert found[name].error == pytest.approx(power * relative * value, rel=0.03), name  # slopes of straight lines
    charge2 = statistics.summary(statistics.observable((q**2)[:, None], log_weight), 0.0)
    assert found["chi_top"].value == pytest.approx(charge2.value / 256)
    assert found["chi_top"].error == pytest.approx(charge2.error / 256)


def test_scales_that_are_not_reached_are_undefined():
    rng = np.random.default_rng(0)
    curve = np.abs(rng.normal(size=(50, 1, 1))) * 1e-3 * np.ones(4)
    obs = {"flow_energy_clover": statistics.observable(curve), "flow_charge2": statistics.observable(curve)}
    found = derived(obs, Geometry((4, 4, 4, 4)), (0.1, 0.2, 0.3, 0.4))
    assert all(np.isnan(statistics.summary(found[name]).value) for name in ("t_0", "t_0p35", "w_0"))
    assert statistics.summary(found["chi_top"]).error > 0
    everything = ("flow_energy_clover", "flow_energy_plaquette", "flow_charge2")
    assert list(formulas(everything, Geometry((4, 4, 4, 4)), (0.1,))) == ["chi_top"]
    assert formulas(everything, Geometry((4, 4, 4, 4))) == {}


def test_creutz_ratios_of_smeared_loops():
    """Loops in planes with time are not symmetric: W(1, 2) and W(2, 1) both enter."""
    names = [f"smeared_temporal_loop_{pair}" for pair in ("1x1", "1x2", "2x1", "2x2")]
    found = formulas(names, Geometry((4, 4, 4)))
    assert found["smeared_creutz_ratio_2x2"][1] == (names[3], names[0], names[2], names[1])
    symmetric = formulas([f"smeared_wilson_loop_{pair}" for pair in ("1x1", "1x2", "2x2")], Geometry((4, 4)))
    assert list(symmetric) == ["smeared_creutz_ratio_2x2"]


def test_a_run_measures_estimates_and_reports(tmp_path):
    """3D U(1): columns of both files, scales of both chains, and the page."""
    (tmp_path / "a.toml").write_text(
        'name = "a"\ntheory = {kind = "u1", lattice = [4, 4, 4], beta = 0.05}\n'
        "sample = {num_samples = 256, batch_size = 128}\n"
        'measure = {flow_times = [0.2, 0.5, 1.0, 2.0], flow_step = 0.1, smearing = "stout", smearing_alpha = 0.1, '
        'smearing_steps = 1, observables = ["plaquette"], wilson_loops = [[1, 1]]}\n'
        'baseline = {kind = "heatbath", chains = 4, thermalisation = 10, trajectories = 50}\n'
    )
    done = latflow("run", str(tmp_path / "a.toml"), "--out", str(tmp_path / "run"), "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["observables"]
    for file, shape in (("ensemble.h5", (256, 4)), ("baseline.h5", (50, 4, 4))):
        with EnsembleFile.open(tmp_path / "run" / file) as ensemble:
            assert ensemble.read("measurements/flow_energy_clover").shape == shape
            assert {"measurements/smeared_wilson_loop_1x1", "measurements/flow_energy_plaquette"} <= set(ensemble.columns)
            assert "measurements/flow_charge" not in ensemble.columns
    t_0 = rows["t_0"]
    assert 1 < t_0["value"] < 2 and t_0["error"] > 0 and t_0["baseline"]["error"] > 0 and t_0["reweighted"]["error"] > 0
    assert abs(t_0["value"] - t_0["baseline"]["value"]) < 5 * np.hypot(t_0["error"], t_0["baseline"]["error"])
    assert rows["smeared_wilson_loop_1x1"]["value"] > rows["wilson_loop_1x1"]["value"]
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert 'id="gradient-flow"' in page and "the level 0.3, which defines t₀" in page


def test_panels_and_history_of_a_charge(tmp_path):
    directory = make_run(tmp_path / "run")
    times, rng = [0.5, 1.0, 1.5, 2.0], np.random.default_rng(0)
    config = (directory / "config.toml").read_text()
    (directory / "config.toml").write_text(config + f"\n[measure]\nflow_times = {times}\n")
    document = json.loads((directory / "observables.json").read_text())
    rows = document["description"]["latflow"]["observables"]
    curve, error = [0.1, 0.2, 0.4, 0.6], [0.01] * 4
    rows["flow_energy_clover"] = {"value": curve, "error": error, "baseline": {"value": curve[::-1], "error": error}}
    rows["flow_charge2"] = {"value": curve, "error": error}
    rows["t_0"] = {"value": 1.25, "error": 0.02, "baseline": {"value": None, "error": None}}
    (directory / "observables.json").write_text(json.dumps(document))
    charge = rng.normal(size=(400, 8, 4))
    _store(directory / "baseline.h5", "chain", {"action": rng.normal(size=(400, 8))}, {"flow_charge": charge})
    run = load_run(directory)
    assert run.baseline is not None and run.flowed_charge
    np.testing.assert_array_equal(run.baseline.chain("q"), charge[..., -1])
    page = write_report(directory).read_text("utf-8")
    assert "flow t₀ = 1.250(20); HMC does not cross it at these times" in page
    assert 'id="gradient-flow-susceptibility-' in page and "Topological charge Q at the last flow time" in page
    assert page.index('id="correlators"') < page.index('id="gradient-flow"')
    assert "correlator-flow" not in page


FLUXES = [(1, -2), (1, 1), (2, 1), (-1, 1), (1, 2)]
SHAPE = (4, 5, 6, 4)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Fields of constant strength, which the gradient flow leaves alone: charge and energy are known at every flow time."""
    folder = tmp_path_factory.mktemp("files")
    for n, flux in enumerate(FLUXES):
        write_nersc(folder / f"conf.{n}", np.asarray(abelian(3, SHAPE, flux)))
    return [str(folder / f"conf.{n}") for n in range(len(FLUXES))]


def test_files_of_other_codes(files):
    done = latflow("measure", *files, "--flow-to", "0.95", "--flow-step", "0.05", "--observable", "plaquette", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    times = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
    assert document["flow_times"] == times and next(iter(document["observables"])) == "plaquette"
    rows, flux = document["observables"], np.array(FLUXES)
    phi = 2 * np.pi * flux / [20, 24]
    charge = 2 * np.prod(flux * np.sin(phi) / phi, 1)
    np.testing.assert_allclose(rows["flow_charge"]["values"], np.outer(charge, np.ones(10)), atol=1e-9)
    energy = 2 * np.sum(np.sin(phi) ** 2, 1)
    np.testing.assert_allclose(rows["flow_energy_clover"]["values"], np.outer(energy, np.square(times)), atol=1e-9)
    t_0 = (0.3 / energy.mean()) ** 0.5
    assert rows["t_0"]["value"] == pytest.approx(t_0, abs=2e-3)  # straight lines between the times
    assert rows["t_0"]["error"] == pytest.approx(t_0 / 2 * _error(energy) / energy.mean(), rel=0.05)
    assert rows["chi_top"]["value"] == pytest.approx(np.mean(charge**2) / 480)
    assert rows["chi_top"]["error"] == pytest.approx(_error(charge**2) / 480)


def _error(series) -> float:
    return statistics.estimate(series).error


def test_few_files_have_scales_without_errors():
    times = configurations.flow_through(1.0, 0.3, 0.02).times
    assert times == (0.3, 0.6, 0.9, 1.0)
    t2e = np.square(times)[None] * [[0.3], [0.5]]
    series = {"plaquette": np.array([0.5, 0.7]), "flow_energy_clover": t2e, "flow_charge": 0.9 * np.ones((2, 4))}
    rows = configurations.estimates(series, Geometry(SHAPE), times)
    assert rows["t_0"]["value"] == pytest.approx(0.6 + 0.3 * (0.3 - 0.144) / (0.324 - 0.144)) and rows["t_0"]["error"] is None
    document = {"files": ["a", "b"], "lattice": SHAPE, "errors": "none", "flow_times": times, "observables": rows}
    text = configurations.render_measurements(document)
    assert "flow_charge at t = 1         0.9\n" in text and "plaquette                    0.6\n" in text
    rows = configurations.estimates({"flow_energy_clover": 0.1 * t2e}, Geometry(SHAPE), times)
    assert "t_0                          undefined" in configurations.render_measurements(document | {"observables": rows})


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["{file}", "--flow-to", "-1"], "--flow-to must be positive"),
        (["{file}", "--flow-every", "0.2"], "--flow-every needs --flow-to"),
        (["u1-2d", "--flow-to", "1"], "measure.flow_times"),
    ],
)
def test_mistakes_on_the_command_line(files, arguments, reason):
    done = latflow("measure", *(word.format(file=files[0]) for word in arguments))
    assert done.returncode == 2 and reason in done.stderr and "Traceback" not in done.stderr
