"""Synthetic run directories in the documented layout, so that the report can be tested without running anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from latflow.io.ensemble import EnsembleFile

U1_CONFIG = """\
name = "u1-2d"
description = "2D U(1), 8x8, beta 2: a gauge-equivariant flow"
seed = 1

[theory]
kind = "u1"
lattice = [8, 8]
beta = 2.0

[flow]
kind = "{flow}"

[prior]
kind = "{prior}"

[train]
steps = {steps}
estimator = "path"

[baseline]
kind = "{baseline}"
"""
PHI4_CONFIG = (
    U1_CONFIG.replace('kind = "u1"', 'kind = "phi4"')
    .replace("beta = 2.0", "m2 = -4.0\nlam = 6.008")
    .replace("u1-2d", "phi4-2d")
)


def metropolis(rng: np.random.Generator, log_w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Independence Metropolis over proposals in order."""
    index, accepted = np.zeros(len(log_w), dtype=np.int64), np.zeros(len(log_w), dtype=bool)
    state, coins = 0, np.log(rng.uniform(size=len(log_w)))
    for i in range(len(log_w)):
        accepted[i] = i == 0 or coins[i] < log_w[i] - log_w[state]
        state = i if accepted[i] else state
        index[i] = state
    return index, accepted


def autoregressive(rng: np.random.Generator, shape: tuple[int, int], memory: float) -> np.ndarray:
    """Unit-variance AR(1) series, (steps, chains)."""
    found = rng.normal(size=shape)
    for i in range(1, shape[0]):
        found[i] = memory * found[i - 1] + np.sqrt(1 - memory**2) * found[i]
    return found


def training_log(rng: np.random.Generator, rows: int = 100) -> list[dict[str, Any]]:
    x = np.arange(rows) / rows
    noise = rng.normal(size=(3, rows))
    return [
        {
            "step": 20 * i,
            "seconds": 1.8 * i,
            "loss": -33.2 + 9 * np.exp(-6 * x[i]) + 0.4 + 0.05 * noise[0, i],
            "ess": float(np.clip(0.75 * (1 - np.exp(-4 * x[i])) + 0.03 * noise[1, i], 0.01, 1)),
            "acceptance": 0.6,
            "grad_norm": float(8 * np.exp(-2 * x[i] + 0.4 * noise[2, i])),
            "learning_rate": float(2e-3 * min(1, 10 * x[i]) * (1 + np.cos(np.pi * x[i])) / 2),
            "seconds_per_step": 0.09 + 0.004 * abs(noise[0, i]),
            "skipped": 0,
            "coupling": 2.0,
        }
        for i in range(rows)
    ]


def make_run(
    directory: Path,
    theory: str = "u1",
    trained: bool = True,
    baseline: bool = True,
    frozen: bool = False,
    samples: int = 4096,
    seconds: dict[str, float] | None = None,
    shift: float = 0.0,
) -> Path:
    """A complete run directory; `shift` moves the flow's plaquette away from the exact value by so many sigma."""
    rng = np.random.default_rng(7)
    directory.mkdir(parents=True, exist_ok=True)
    config = (U1_CONFIG if theory == "u1" else PHI4_CONFIG).format(
        flow="coupling" if trained else "identity",
        prior="haar" if trained else "exact",
        steps=2000 if trained else 0,
        baseline="hmc" if baseline else "none",
    )
    (directory / "config.toml").write_text(config)
    (directory / "provenance.json").write_text(
        json.dumps({"latflow": "0.1.0", "versions": {"jax": "0.10.2"}, "device": "cpu", "seed": 1})
    )
    if trained:
        rows = training_log(rng)
        (directory / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 2000, "lo')

    log_q = rng.normal(-20, 3, samples)
    log_w = 33.2 + (
        0.5 * rng.normal(size=samples) + 0.15 * rng.exponential(size=samples) if trained else np.full(samples, 1e-9)
    )
    index, accepted = metropolis(rng, log_w)
    names = (
        ["plaquette", "action_density", "q", "q2"]
        if theory == "u1"
        else ["magnetisation", "abs_magnetisation", "phi2", "action_density"]
    )
    flow = _measurements(names, rng.normal(size=samples), rng.normal(size=samples))
    columns = {"log_q": log_q, "action": -log_w - log_q, "chain_index": index, "accepted": accepted}
    _store(directory / "ensemble.h5", "flow", columns, {**flow, "two_point": rng.normal(size=(samples, 8))})
    shape = (400, 8)
    memory = 0.97
    slow = np.zeros(shape) if frozen else autoregressive(rng, shape, memory)
    chain = _measurements(names, slow, autoregressive(rng, shape, 0.6))
    if baseline:
        _store(directory / "baseline.h5", "chain", {"action": rng.normal(size=shape)}, chain)
    summary = _summary(theory, flow, index, chain if baseline else {}, trained, samples, shift)
    summary["seconds"] = seconds or {
        "train": 180.0 if trained else 0.0,
        "sample": 4.0,
        "measure": 1.0,
        "baseline": 20.0 if baseline else 0.0,
    }
    document = {"program": "pyerrors", "description": {"text": "latflow", "latflow": summary}, "obsdata": []}
    (directory / "observables.json").write_text(json.dumps(document))
    return directory


def _store(path: Path, kind: str, columns: dict[str, np.ndarray], measurements: dict[str, np.ndarray]) -> None:
    rows = columns | {f"measurements/{name}": values for name, values in measurements.items()}
    shapes = {name: (values.shape[1:], values.dtype) for name, values in rows.items()}
    with EnsembleFile.create(path, kind, {}, shapes) as file:
        file.append(rows)


def _measurements(names: list[str], slow: np.ndarray, fast: np.ndarray) -> dict[str, np.ndarray]:
    charge = np.rint(0.9 * slow)
    made = {
        "plaquette": 0.6978 + 0.05 * fast,
        "action_density": -1.3956 + 0.1 * fast,
        "q": charge,
        "q2": charge**2,
        "magnetisation": 0.25 * np.tanh(2 * slow) + 0.05 * fast,
        "abs_magnetisation": np.abs(0.25 * np.tanh(2 * slow) + 0.05 * fast),
        "phi2": 0.3 + 0.03 * fast,
    }
    return {name: made[name] for name in names}


def _summary(
    theory: str,
    flow: dict[str, np.ndarray],
    index: np.ndarray,
    chain: dict[str, np.ndarray],
    trained: bool,
    samples: int,
    shift: float,
) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name, values in flow.items():
        error = float(values.std() / np.sqrt(samples / 2))
        exact = float(values.mean()) - (shift if name == "plaquette" else 0.7) * error if theory == "u1" else None
        rows[name] = {
            "value": float(values[index].mean()) if not shift else float(values.mean()),
            "error": error,
            "tau_int": 0.9,
            "exact": exact,
            "reweighted": {"value": float(values.mean()), "error": 0.9 * error},
        }
        if name in chain:
            tau = {"q": 30.0, "q2": 18.0, "magnetisation": 30.0, "abs_magnetisation": 20.0}.get(name, 2.0)
            rows[name]["baseline"] = {
                "value": float(chain[name].mean()),
                "error": float(chain[name].std() * np.sqrt(2 * tau / 3200)),
                "tau_int": tau,
            }
    t = np.arange(8)
    correlator = 0.5 * (np.exp(-0.5 * t) + np.exp(-0.5 * (8 - t)))
    rows["two_point"] = {"value": list(correlator), "error": [0.01] * 8, "tau_int": [0.8] * 8, "exact": None}
    if chain:
        rows["two_point"]["baseline"] = {"value": list(correlator + 0.012), "error": [0.02] * 8, "tau_int": [3.0] * 8}
    return {
        "recipe": "u1-2d",
        "theory": "U(1), 8x8, beta = 2",
        "ess": {"value": 0.6213 if trained else 1.0, "error": 0.0061 if trained else 0.0, "samples": samples},
        "acceptance": 0.712 if trained else 1.0,
        "log_z": {"value": 33.2094, "error": 0.0061, "exact": 33.2148 if theory == "u1" else None},
        "observables": rows,
        "baseline": {"kind": "hmc", "acceptance": 0.86} if chain else {"kind": "none"},
        "report": "report.html",
    }
