"""What becomes of fermionic measurements and settings: masses, signs, and the objects that a configuration stands for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from jax import random

from latflow.app import builders
from latflow.app.analysis import _chain_facts, _means, analyse, summarise
from latflow.app.config import validate
from latflow.app.correlators import pion_mass
from latflow.io.ensemble import EnsembleFile
from latflow.kernels import BOSONS, HMC, PseudofermionHMC
from latflow.statistics import observable, summary

WILSON = {"kind": "wilson", "kappa": 0.2}


def config(theory=None, fermions=None, **sections):
    raw = {
        "name": "x",
        "theory": theory or {"kind": "u1", "lattice": [4, 4], "beta": 1.0},
        "fermions": fermions or WILSON,
        "baseline": {"kind": "hmc"},
    }
    return validate({**raw, **sections})


@pytest.mark.parametrize("L0", [4, 8, 16])
def test_the_mass_of_a_periodic_exponential(L0):
    """C(t) = cosh(m (t - L0/2)) with independent noise of a percent: the mass, and at t = 0 the first effective one."""
    rng, m = np.random.default_rng(1), 0.35
    exact = np.cosh(m * (np.arange(L0) - L0 / 2)) / 50
    noisy = exact * (1 + 0.01 * rng.standard_normal((4096, 1, L0)))
    found = pion_mass(observable(noisy))
    mass = summary(found["pion_mass"])
    assert 0 < mass.error < 0.01
    assert abs(mass.value - m) < 5 * mass.error
    first = summary(found["pion_effective_mass"])[0]
    assert abs(first.value - m) < 5 * first.error


def test_noise_gives_no_mass():
    rng = np.random.default_rng(2)
    found = pion_mass(observable(rng.standard_normal((64, 1, 8)) - 0.5))
    assert "pion_mass" not in found or summary(found["pion_mass"]).error > 0.05
    assert pion_mass(observable(rng.standard_normal((64, 1, 3)))) == {}


@pytest.mark.filterwarnings("error")
def test_a_correlator_that_rises_has_no_mass():
    """C(t) < C(t + 1) is no ratio of cosh: there is no root to end at."""
    rising = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 4.0, 3.0, 2.0]) + 0.01 * np.random.default_rng(4).standard_normal((64, 1, 8))
    found = pion_mass(observable(rising))
    assert list(found["pion_effective_mass"]) == [None] * 4 and "pion_mass" not in found


def test_an_observable_whose_solve_failed_is_left_out(tmp_path):
    """The others keep their estimates, and it is said which and how often."""
    columns = {"log_q": ((), np.float64), "action": ((), np.float64), "chain_index": ((), np.int64), "accepted": ((), bool)}
    columns |= {"measurements/plaquette": ((), np.float64), "measurements/pion": ((4,), np.float64)}
    n, rng, chosen = 64, np.random.default_rng(5), config()
    rows = {name: rng.standard_normal((n, *shape)).astype(dtype) for name, (shape, dtype) in columns.items()}
    rows |= {"chain_index": np.arange(n), "accepted": np.ones(n, bool)}
    rows["measurements/pion"][7, 2] = np.nan
    with EnsembleFile.open_or_create(tmp_path / "e.h5", "flow", {}, columns, settings={}, metadata={}, capacity=n) as file:
        file.append(rows)
    action = builders.build_action(chosen)
    found, _ = summarise({}, analyse(tmp_path / "e.h5", chosen, action), chosen, action, None)
    assert found["observables"]["plaquette"]["value"] is not None and "pion" not in found["observables"]
    assert any(w.startswith("pion could not be measured on 1 configurations") for w in found["warnings"])


def test_one_flavour_is_reweighted_by_the_sign():
    """Of O with mean a where det D > 0 and b where it is negative, <O sign> / <sign> = (p a - n b) / (p - n)."""
    rng = np.random.default_rng(3)
    sign = np.where(rng.random((20000, 1)) < 0.8, 1.0, -1.0)
    values = np.where(sign > 0, 1.0, 3.0) + 0.1 * rng.standard_normal(sign.shape)
    series = {"det_sign": sign, "plaquette": values, "pion": np.stack([values, 2 * values], -1)}
    one = _means(config(fermions={**WILSON, "flavours": 1}, baseline={"kind": "none"}), series, None, "x")
    expected = (0.8 * 1 - 0.2 * 3) / 0.6
    mean = summary(one["plaquette"])
    assert abs(mean.value - expected) < 5 * mean.error and mean.error < 0.05
    assert abs(summary(one["pion"])[1].value - 2 * mean.value) < 1e-12
    assert abs(summary(one["det_sign"]).value - 0.6) < 0.05
    two = _means(config(), series, None, "x")
    assert abs(summary(two["plaquette"]).value - 1.4) < 0.05
    # draws with weights: those of negative sign count a third
    weighted = _means(
        config(fermions={**WILSON, "flavours": 1}, baseline={"kind": "none"}),
        series,
        np.where(sign > 0, 0.0, math.log(1 / 3)),
        "x",
    )
    mean = summary(weighted["plaquette"], 0.0)
    assert abs(mean.value - (0.8 - 0.2) / (0.8 - 0.2 / 3)) < 5 * mean.error


def test_the_energy_of_hmc_is_summarised(tmp_path):
    columns = {
        "acceptance": np.ones((2, 2)),
        "non_finite": np.array([[0, 0], [1, 0]]),
        "delta_action": np.array([[0.3, -0.2], [math.inf, 0.1]]),
    }
    shapes = {name: (values.shape[1:], values.dtype) for name, values in columns.items()}
    with EnsembleFile.open_or_create(tmp_path / "chain.h5", "chain", {}, shapes) as file:
        file.append(columns)
        facts, none = _chain_facts(file, "hmc"), _chain_facts(file, "heatbath")
    assert facts["exp_minus_dh"]["value"] == pytest.approx(np.exp(-np.array([0.3, -0.2, 0.1])).mean())
    assert facts["rejected_non_finite"] == 1 and "exp_minus_dh" not in none


def test_baselines_are_what_was_asked_for():
    settings = {"kind": "hmc", "hasenbusch": [0.01, 0.1], "gauge_steps": 3, "num_steps": 5, "integrator": "leapfrog"}
    kernel = builders.build_baseline(config(baseline=settings))
    assert isinstance(kernel, PseudofermionHMC)
    assert [(level.terms, level.num_steps) for level in kernel.levels] == [((0, 1, 2), 5), ((BOSONS,), 3)]
    assert kernel.masses == (0.01, 0.1) and kernel.flavours == 2
    single = builders.build_baseline(config(baseline={"kind": "hmc", "num_steps": 5}))
    assert isinstance(single, PseudofermionHMC) and [level.terms for level in single.levels] == [(0, BOSONS)]
    exact = builders.build_baseline(config(baseline={"kind": "hmc", "fermions": "determinant"}))
    assert isinstance(exact, HMC) and len(exact.action.terms) == 2  # type: ignore[attr-defined]


def test_parameters_reach_the_operator():
    """Boundary angles in units of pi, the clover coefficient, and the mass of Yukawa fermions."""
    default, spelled = (
        builders.build_action(config(fermions={**WILSON, **more, "csw": 0.5})) for more in ({}, {"boundary": [1.0, 0.0]})
    )
    theta = random.uniform(random.key(0), (2, 4, 4))
    assert float(default(theta)) == pytest.approx(float(spelled(theta)), rel=1e-12)
    assert float(builders.build_action(config())(theta)) != pytest.approx(float(default(theta)), rel=1e-6)
    scalar = {"kind": "phi4", "lattice": [4, 4], "m2": 1.0, "lam": 0.5}
    yukawa = builders.build_fermion(config(scalar, {"kind": "wilson-yukawa", "mass": 0.3, "g": 0.2}))
    assert yukawa is not None and yukawa.kappa == pytest.approx(1 / 4.6)  # type: ignore[attr-defined]
