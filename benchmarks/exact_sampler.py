"""Speed of the exact sampler of two-dimensional U(1) gauge theory against volume and coupling.

    python benchmarks/exact_sampler.py [--quick]

prints one table: independent configurations per second with their log density, nanoseconds per site, compile time, and the
fraction of proposed orbits that is accepted (1 where a rejection is below rounding), for single precision output. Batches of
2^18 sites, batch axis last, median of five timings. Then the free-field sampler on the same lattices.
"""

from __future__ import annotations

import argparse
import statistics
import time

import jax
import jax.numpy as jnp

from latflow.exact import FreeField, TorusU1Sampler
from latflow.lattice import Geometry

COUPLINGS = (2.0, 16.0, 50.0)


def timings(sampler: TorusU1Sampler | FreeField, batch: int, repeats: int) -> tuple[float, float]:
    """(configurations per second, seconds to compile)."""
    draw = jax.jit(jax.vmap(sampler.sample_and_log_density, out_axes=(-1, 0)))
    keys = jax.random.split(jax.random.key(0), batch)
    start = time.perf_counter()
    compiled = draw.lower(keys).compile()
    compile_seconds = time.perf_counter() - start
    jax.block_until_ready(compiled(keys))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(keys))
        seconds.append(time.perf_counter() - start)
    return batch / statistics.median(seconds), compile_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the sites per batch, three timings")
    quick = parser.parse_args().quick
    jax.config.update("jax_enable_x64", True)
    sites, repeats = (2**14, 3) if quick else (2**18, 5)
    print(f"{jax.devices()[0].device_kind}, {sites} sites per batch")
    print(print("    theory    L  beta  configurations/s   per hour  ns/site  accepted  compile s"))
    for L in (8, 16, 32, 64, 128):
        batch = max(1, sites // L**2)
        for beta in COUPLINGS:
            sampler = TorusU1Sampler(Geometry((L, L)), beta, jnp.float32)
            row("2D U(1)", L, f"{beta:g}", *timings(sampler, batch, repeats), f"{sampler.acceptance:.3f}")
        row("free", L, "-", *timings(FreeField(Geometry((L, L)), 0.1, jnp.float32), batch, repeats), "-")


def row(theory: str, L: int, beta: str, rate: float, compile_seconds: float, accepted: str) -> None:
    cost = 1e9 / rate / L**2
    print(
        f"{theory:>10} {L:4d} {beta:>5} {rate:17.0f} {3600 * rate:10.1e} {cost:8.0f} {accepted:>9} {compile_seconds:10.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
