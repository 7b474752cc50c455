"""Speed of the gradient flow: one third-order step with its error estimate, three forces and four exponentials of every link.

    python benchmarks/gradient_flow.py [--quick]

prints one table; --quick leaves out 16^4. Median of three timings of repeated steps inside one compiled loop.
"""

from __future__ import annotations

import argparse
import statistics
import time

import jax
import jax.numpy as jnp

from latflow.groups import SUN
from latflow.lattice import Geometry
from latflow.observables.gradient_flow import flow_step

REPEATS = 3


def seconds_per_step(Nc: int, L: int, dtype) -> float:
    """One step of one configuration on L^4."""
    group, geometry = SUN(Nc), Geometry((L,) * 4)
    links = jax.jit(lambda key: group.haar(key, (4, *geometry.shape), dtype))(jax.random.key(0))

    @jax.jit
    def run(links):
        return jax.lax.fori_loop(0, REPEATS, lambda _, u: flow_step(group, geometry, u, 0.02)[0], links)

    def timed() -> float:
        start = time.perf_counter()
        jax.block_until_ready(run(links))
        return (time.perf_counter() - start) / REPEATS

    timed()
    return statistics.median(timed() for _ in range(3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out 16^4")
    sizes = (8,) if parser.parse_args().quick else (8, 16)
    jax.config.update("jax_enable_x64", True)
    print(f"{jax.devices()[0].device_kind}, {len(jax.devices())} device(s)")
    print(f"{'group':<6} {'lattice':<8} {'precision':<10} {'ms per step':>12} {'links/s':>10}")
    for Nc in (2, 3):
        for L in sizes:
            for dtype in (jnp.complex64, jnp.complex128):
                seconds = seconds_per_step(Nc, L, dtype)
                name = jnp.dtype(dtype).name
                print(f"SU({Nc})  {L}^4{'':<5} {name:<10} {1e3 * seconds:>12.1f} {4 * L**4 / seconds:>10.3g}", flush=True)


if __name__ == "__main__":
    main()
