"""Training steps and proposals per second of U(1) flows, compile time against depth, memory with and without
rematerialisation.

    python benchmarks/training.py [--quick] [--device-note TEXT]

Prints one Markdown table per question. Times are medians over repeated calls after a warm-up; the load average is printed
beside them because ratios within one run are what can be trusted.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

import equinox as eqx
import jax
import numpy as np

from latflow.actions import WilsonGauge
from latflow.flows import u1_coupling_flow
from latflow.groups import U1
from latflow.lattice import Geometry
from latflow.models import FlowModel, HaarPrior
from latflow.training import TrainSettings, make_loss
from latflow.training.step import initial_state, make_step


def problem(L: int, **flow) -> tuple[FlowModel, WilsonGauge]:
    geometry = Geometry((L, L))
    model = FlowModel(HaarPrior(geometry, U1()), u1_coupling_flow(geometry, key=jax.random.key(0), **flow))
    return model, WilsonGauge(geometry, U1(), 2.0)


def compiled_step(model: FlowModel, action: WilsonGauge, batch: int, estimator: Any):
    """(compiled step, state, compile seconds, temporary bytes)."""
    settings = TrainSettings(batch_size=batch, estimator=estimator)
    parameters, rest = model.partition()
    state = initial_state(jax.tree.map(jax.numpy.copy, parameters), settings)
    began = time.perf_counter()
    step = make_step(rest, action, settings, make_loss(settings))
    compiled = step.func.lower(state, jax.random.key(0), **step.keywords).compile()  # type: ignore[attr-defined]
    seconds = time.perf_counter() - began
    return eqx.Partial(compiled, **step.keywords), state, seconds, compiled.memory_analysis().temp_size_in_bytes


def median_seconds(call, calls: int, patience: float = 6.0) -> float:
    """Median time of at most `calls` calls after one to warm up; no more calls once `patience` seconds are spent."""
    call(0)
    times: list[float] = []
    while len(times) < calls and sum(times) < patience:
        began = time.perf_counter()
        call(len(times) + 1)
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def seconds_per_step(step, state, calls: int) -> float:
    def once(_: int) -> None:
        nonlocal state
        state, info = step(state, jax.random.key(0))
        jax.block_until_ready(info.loss)

    return median_seconds(once, calls)


def seconds_per_draw(model: FlowModel, action: WilsonGauge, batch: int, calls: int) -> float:
    @jax.jit
    def weigh(key):
        y, log_q = model.draw(key, batch)
        return -jax.vmap(action, in_axes=-1)(y) - log_q

    return median_seconds(lambda i: jax.block_until_ready(weigh(jax.random.key(i))), calls)


# 16 layers in both: about the parameters of the tutorial of 2101.08176, and of the largest public 2D U(1) models.
LARGE = {"mask": "stripes", "blocks": 8, "loop": "plaquette", "conv": (32, 32), "hidden": (48,), "bins": 16}
FLOWS = {
    "coarse-to-fine": {"mask": "coarse-to-fine", "blocks": 0, "hidden": (16,), "bins": 16},
    "stripes, 16 layers, small": {"mask": "stripes", "blocks": 8, "loop": "plaquette", "conv": (8,), "hidden": (8,), "bins": 8},
    "stripes, 16 layers, large": LARGE,
}


def speed(sizes, batches, calls) -> None:
    """Steps per second with the plain estimator and with that of the recipes: score function for coarse-to-fine flows, path
    gradient for stripes."""
    print("\n| flow | L | batch | parameters | plain steps/s | recipe's estimator | proposals/s | us per site, proposal |")
    print("|---|---|---|---|---|---|---|---|")
    for name, flow in FLOWS.items():
        second = "score" if flow["mask"] == "coarse-to-fine" else "path"
        for L in sizes if flow is not LARGE else (8,):
            model, action = problem(L, **flow)
            count = sum(x.size for x in jax.tree.leaves(model.partition()[0]))
            for batch in batches:
                plain, other = (seconds_per_step(*compiled_step(model, action, batch, e)[:2], calls) for e in ("plain", second))
                draw = seconds_per_draw(model, action, batch, calls)
                print(
                    f"| {name} | {L} | {batch} | {count} | {1 / plain:.2f} | {1 / other:.2f} ({second}) | {batch / draw:.3g} "
                    f"| {draw / batch / L**2 * 1e6:.3f} |",
                    flush=True,
                )


def depth(blocks) -> None:
    print("\n| layers | rematerialised | compile s (step, path) | temporary MB (batch 256) |")
    print("|---|---|---|---|")
    for n in blocks:
        for remat in (False, True):
            model, action = problem(8, mask="stripes", blocks=n, loop="plaquette", rematerialise=remat)
            _, _, seconds, memory = compiled_step(model, action, 256, "path")
            print(f"| {2 * n} | {'yes' if remat else 'no'} | {seconds:.1f} | {memory / 1e6:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="L = 8 only and few repetitions")
    quick = parser.parse_args().quick
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    depth((8, 24))
    speed((8,) if quick else (8, 16, 32), (64,) if quick else (64, 1024), 5 if quick else 10)
    print(f"\nload at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
