"""Speed of HMC and of the U(1) heatbath against the volume, the number of chains and the layout of the chain axis.

    python benchmarks/hmc.py [--quick]

prints one table. HMC: second-order minimum norm, 10 steps (20 forces) per trajectory. Sweeps: one heatbath of all links.
Single precision, median of five timings of repeated steps inside one compiled loop. "last" and "first" say where the axis of
the chains stands: (lattice..., chains) or (chains, lattice...).
"""

from __future__ import annotations

import argparse
import statistics
import time

import jax
import jax.numpy as jnp

from latflow.actions import WilsonGauge
from latflow.groups import U1
from latflow.kernels import HMC, AbstractKernel, HeatbathU1
from latflow.lattice import Geometry

ROWS = [((8, 8), 2.0), ((16, 16), 2.0), ((32, 32), 2.0), ((64, 64), 2.0), ((4,) * 4, 0.9), ((8,) * 4, 0.9)]


def steps_per_second(kernel: AbstractKernel, geometry: Geometry, chains: int, axis: int, seconds: float) -> float:
    """Kernel steps per second, all chains together."""

    @jax.jit
    def run(key, states, repeats):
        def one(i, states):
            keys = jax.random.split(jax.random.fold_in(key, i), chains)
            return jax.vmap(kernel.step, in_axes=(0, axis), out_axes=(axis, 0))(keys, states)[0]

        return jax.lax.fori_loop(0, repeats, one, states)

    fields = U1().haar(jax.random.key(0), (chains, geometry.Nd, *geometry.shape), jnp.float32)
    states = jax.vmap(kernel.init, in_axes=axis, out_axes=axis)(jnp.moveaxis(fields, 0, axis))
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
    seconds = 0.1 if parser.parse_args().quick else 1.0
    jax.config.update("jax_enable_x64", True)
    print(f"{jax.devices()[0].device_kind}, float32")
    print("| lattice | chains | axis | trajectories/s | links x forces/s (1e6) | heatbath link updates/s (1e6) |")
    print("|---|---|---|---|---|---|")
    for shape, beta in ROWS:
        geometry = Geometry(shape)
        action = WilsonGauge(geometry, U1(), beta)
        links = geometry.Nd * geometry.volume
        hmc, heatbath = HMC(action, 1.0, 10), HeatbathU1(action)
        for chains, axis in ((1, 0), (64, 0), (64, -1)):
            trajectories = steps_per_second(hmc, geometry, chains, axis, seconds)
            sweeps = steps_per_second(heatbath, geometry, chains, axis, seconds)
            name = "-" if chains == 1 else "last" if axis else "first"
            forces = 20 * trajectories * links / 1e6
            label = f"| {'x'.join(map(str, shape))} | {chains} | {name} "
            print(f"{label}| {trajectories:.3g} | {forces:.3g} | {sweeps * links / 1e6:.3g} |", flush=True)


if __name__ == "__main__":
    main()
