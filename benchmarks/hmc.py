"""Speed of HMC, heatbath and overrelaxation against the group, the volume, the number of chains and the layout of their axis.

    python benchmarks/hmc.py [--quick] [--group u1|su2|su3]

prints one table. HMC: second-order minimum norm, 10 steps (20 forces) per trajectory. Sweeps: one heatbath or one
overrelaxation of all links. Single precision, median of five timings of repeated steps inside one compiled loop. "last" and
"first" say where the axis of the chains stands: (lattice..., chains) or (chains, lattice...).
"""

from __future__ import annotations

import argparse
import statistics
import time

import jax
import jax.numpy as jnp

from latflow.actions import WilsonGauge
from latflow.groups import SUN, U1
from latflow.kernels import HMC, AbstractKernel, HeatbathSUN, HeatbathU1, OverrelaxationSUN, OverrelaxationU1
from latflow.lattice import Geometry

GROUPS = {"u1": U1(), "su2": SUN(2), "su3": SUN(3)}
ROWS = [
    *(("u1", (n, n), 2.0) for n in (8, 16, 32, 64)),
    *(("u1", (n,) * 4, 0.9) for n in (4, 8)),
    *(("su2", shape, 2.2) for shape in ((8, 8), (4,) * 4)),
    *(("su3", shape, 6.0) for shape in ((8, 8), (16, 16), (4,) * 4, (8,) * 4)),
]


def steps_per_second(kernel: AbstractKernel, action: WilsonGauge, chains: int, axis: int, seconds: float) -> float:
    """Kernel steps per second, all chains together."""

    @jax.jit
    def run(key, states, repeats):
        def one(i, states):
            keys = jax.random.split(jax.random.fold_in(key, i), chains)
            return jax.vmap(kernel.step, in_axes=(0, axis), out_axes=(axis, 0))(keys, states)[0]

        return jax.lax.fori_loop(0, repeats, one, states)

    geometry = action.geometry
    keys = jax.random.split(jax.random.key(0), chains)
    fields = jax.vmap(lambda key: action.group.haar(key, (geometry.Nd, *geometry.shape), jnp.float32), out_axes=axis)(keys)
    states = jax.vmap(kernel.init, in_axes=axis, out_axes=axis)(fields)
    key = jax.random.key(1)

    def timed(repeats: int) -> float:
        nonlocal states
        start = time.perf_counter()
        states = jax.block_until_ready(run(key, states, repeats))
        return time.perf_counter() - start

    timed(1)
    repeats = max(1, int(seconds / 5 / timed(1)))
    return chains * repeats / statistics.median(timed(repeats) for _ in range(5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of a second per entry instead of one")
    parser.add_argument("--group", choices=GROUPS, help="one group only")
    options = parser.parse_args()
    seconds = 0.1 if options.quick else 1.0
    jax.config.update("jax_enable_x64", True)
    print(f"{jax.devices()[0].device_kind}, float32")
    print(
        "| group | lattice | chains | axis | trajectories/s | link forces/s (1e6) | heatbath, overrelaxation updates/s (1e6) |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, shape, beta in ROWS:
        if options.group not in (None, name):
            continue
        geometry = Geometry(shape)
        action = WilsonGauge(geometry, GROUPS[name], beta)
        links = geometry.Nd * geometry.volume
        sweepers = (HeatbathU1, OverrelaxationU1) if name == "u1" else (HeatbathSUN, OverrelaxationSUN)
        hmc, *sweeps = HMC(action, 1.0, 10), *(make(action) for make in sweepers)
        for chains, axis in ((1, 0), (64, 0), (64, -1)):
            trajectories = steps_per_second(hmc, action, chains, axis, seconds)
            updates = [links / 1e6 * steps_per_second(kernel, action, chains, axis, seconds) for kernel in sweeps]
            place = "-" if chains == 1 else "last" if axis else "first"
            forces = 20 * trajectories * links / 1e6
            label = f"| {name} | {'x'.join(map(str, shape))} | {chains} | {place} "
            print(f"{label}| {trajectories:.3g} | {forces:.3g} | {updates[0]:.3g}, {updates[1]:.3g} |", flush=True)


if __name__ == "__main__":
    main()
