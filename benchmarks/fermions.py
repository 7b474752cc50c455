"""Speed of fermions: the Wilson operator, conjugate gradients, and HMC with pseudofermions.

    python benchmarks/fermions.py [--quick] [--only apply|cg|hmc]

prints one table each, with the load of the machine before it.

apply: D and its even/odd complement, repeated inside a compiled loop as a solver does it (where JAX carries a batch with its
axis first, whichever axis was mapped), and called once with the batch axis last. GB/s counts what must be read and written at
least, the links once and the spinor in and out; "memory" is the same number of bytes of an array that is multiplied by a
number in place, in a loop as well, and the fraction is the one rate divided by the other.

cg: microseconds per iteration of a solve with M of the even/odd complement, and nanoseconds per site and iteration.

hmc: 10 minimum-norm steps (20 solves for the force, 2 for energies) per trajectory, the Schwinger model at beta = 2 and kappa =
0.265, and four-dimensional SU(3) at beta = 6 and kappa = 0.1, from an exact sample of the gauge part or near unit links.

Everything is warm and the median of several runs. `taskset -c 0` in front gives apply and cg on one core in CPU time.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from latflow.actions import WilsonGauge
from latflow.dirac import WilsonFermion
from latflow.exact import TorusU1Sampler
from latflow.groups import SUN, U1
from latflow.kernels import PseudofermionHMC
from latflow.lattice import Geometry
from latflow.solvers import cg

TYPES = {"double": (jnp.float64, jnp.complex128), "single": (jnp.float32, jnp.complex64)}


def seconds(function: Callable, *arguments, lasting: float = 0.2, runs: int = 5) -> float:
    """Median time per call of `function(*arguments)`, in runs that last about as long as asked for. On one core (`taskset
    -c 0`) CPU time, which other work hardly changes, otherwise wall time."""
    clock = time.process_time if len(os.sched_getaffinity(0)) == 1 else time.perf_counter
    jax.block_until_ready(function(*arguments))
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    count = max(1, int(lasting / (time.perf_counter() - start)))
    times = []
    for _ in range(runs):
        start = clock()
        for _ in range(count):
            out = function(*arguments)
        jax.block_until_ready(out)
        times.append((clock() - start) / count)
    return statistics.median(times)


def links(group: U1 | SUN, geometry: Geometry, precision: str, batch: int | None = None) -> jax.Array:
    """2D U(1): exact at beta = 2; otherwise near unit links. With a batch, its axis last."""
    real, complex_ = TYPES[precision]
    if isinstance(group, U1):
        one = TorusU1Sampler(geometry, 2.0, real).sample
    else:
        sites = (geometry.Nd, *geometry.shape)

        def one(key):
            return group.exp(0.3 * group.random_algebra(key, sites, complex_))

    key = jax.random.key(0)
    return jax.jit(one)(key) if batch is None else jax.jit(jax.vmap(one, out_axes=-1))(jax.random.split(key, batch))


def repeated(function: Callable, given, x, lasting: float) -> float:
    """Time of one turn of `function(given, x, turns)`, a compiled loop."""
    one = seconds(function, given, x, 10, lasting=0.0, runs=3) / 10
    turns = min(2000, max(3, int(lasting / one)))
    return seconds(function, given, x, turns, lasting=0.0) / turns


@jax.jit
def scale(_, x: jax.Array, turns: int) -> jax.Array:
    """What a loop that only reads and writes an array does."""
    return jax.lax.fori_loop(0, turns, lambda _, x: x * x.dtype.type(1.0001), x)


def apply(quick: bool) -> None:
    print(
        "\n| theory | lattice | batch | precision | operator | us in a loop | 1e6 sites/s | GB/s | memory GB/s | fraction "
        "| us per call |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    rows = [(U1(), (n, n), batch) for n in (16, 64) for batch in (1, 64)] + [(SUN(3), (n,) * 4, 1) for n in (4, 8)]
    for (group, shape, batch), precision, even_odd in itertools.product(rows, TYPES, (False, True)):
        apply_row(group, Geometry(shape), batch, precision, even_odd, 0.05 if quick else 0.2)


def apply_row(group: U1 | SUN, geometry: Geometry, batch: int, precision: str, even_odd: bool, lasting: float) -> None:
    real, complex_ = TYPES[precision]
    fermion = WilsonFermion(geometry, group, 1e-3)  # so small a kappa keeps repeated products of the order of one
    field = links(group, geometry, precision, batch)

    def operator(field):
        return fermion.operator(field).schur() if even_odd else fermion.operator(field)

    def loop(field, psi, turns):
        built = operator(field)
        return jax.lax.fori_loop(0, turns, lambda _, x: built.mv(x), psi)

    keys = jax.random.split(jax.random.key(1), batch)
    psi = jax.jit(jax.vmap(lambda key, field: operator(field).random(key), (0, -1), -1))(keys, field)
    took = repeated(jax.jit(jax.vmap(loop, (-1, -1, None), -1)), field, psi, lasting)
    built = jax.jit(jax.vmap(operator, -1, -1))(field)
    once = seconds(jax.jit(jax.vmap(lambda built, x: built.mv(x), -1, -1)), built, psi, lasting=lasting)
    sites = geometry.volume * batch
    size = geometry.Nd * group.Nc**2 * sites * jnp.dtype(complex_).itemsize + 2 * psi.nbytes
    memory = repeated(scale, None, jnp.ones(size // 2 // jnp.dtype(real).itemsize, real), lasting)
    print(
        f"| {label(group, geometry.shape)} | {batch} | {precision} | {'even/odd' if even_odd else 'D'} | {1e6 * took:.1f} "
        f"| {sites / took / 1e6:.3g} | {size / took / 1e9:.3g} | {size / memory / 1e9:.3g} | {memory / took:.2f} "
        f"| {1e6 * once:.1f} |",
        flush=True,
    )


def label(group: U1 | SUN, shape: tuple[int, ...]) -> str:
    return f"{'U(1)' if isinstance(group, U1) else f'SU({group.Nc})'} | {'x'.join(map(str, shape))}"


def solves(quick: bool) -> None:
    print("\n| theory | lattice | precision | iterations | us per iteration | ns per site and iteration |")
    print("|---|---|---|---|---|---|")
    sizes = (8, 16, 32) if quick else (8, 16, 32, 64, 128)
    rows = [(U1(), (n, n), 0.25) for n in sizes] + [(SUN(3), (n,) * 4, 0.12) for n in (4, 8)]
    for precision in TYPES:
        for group, shape, kappa in rows:
            geometry = Geometry(shape)
            field = links(group, geometry, precision)
            fermion = WilsonFermion(geometry, group, kappa)
            tol = 1e-10 if precision == "double" else 1e-5

            @jax.jit
            def solve(field, b, fermion=fermion, tol=tol):
                x, info = cg(fermion.operator(field).schur().normal, b, tol=tol, max_iterations=10_000)
                return x, info.iterations

            b = fermion.operator(field).schur().random(jax.random.key(1))
            took = seconds(solve, field, b)
            count = int(solve(field, b)[1])
            print(
                f"| {label(group, shape)} | {precision} | {count} | {1e6 * took / count:.1f} "
                f"| {1e9 * took / count / geometry.volume:.1f} |",
                flush=True,
            )


def trajectories(quick: bool) -> None:
    print(
        "\n| theory | lattice | chains | precision | trajectories/s | s per step | steps | acceptance | iterations per solve |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    sizes = (8, 16) if quick else (8, 16, 32, 64)
    rows = [(U1(), (n, n), 2.0, 0.265, chains) for n in sizes for chains in (1, 64)]
    rows += [] if quick else [(SUN(3), (8,) * 4, 6.0, 0.1, 1)]
    for (group, shape, beta, kappa, chains), precision in itertools.product(rows, TYPES):
        trajectory_row(group, Geometry(shape), beta, kappa, chains, precision, 2.0 if quick else 10.0)


def trajectory_row(
    group: U1 | SUN, geometry: Geometry, beta: float, kappa: float, chains: int, precision: str, lasting: float
) -> None:
    action = WilsonGauge(geometry, group, beta)
    kernel = PseudofermionHMC(action, WilsonFermion(geometry, group, kappa), max_iterations=5000)
    states = jax.jit(jax.vmap(kernel.init, -1, -1))(links(group, geometry, precision, chains))
    step = jax.jit(jax.vmap(kernel.step, (0, -1), (-1, 0)))
    times, infos = [], []
    while len(times) < 2 or (sum(times[1:]) < lasting and len(times) < 60):
        start = time.perf_counter()
        states, info = jax.block_until_ready(step(jax.random.split(jax.random.key(len(times)), chains), states))
        times.append(time.perf_counter() - start)
        infos.append(info)
    took = statistics.median(times[1:])  # the first compiles
    acceptance = statistics.fmean(float(jnp.mean(info.acceptance)) for info in infos[1:])
    iterations = statistics.fmean(float(jnp.mean(info.solver_iterations)) for info in infos[1:])
    print(
        f"| {label(group, geometry.shape)} | {chains} | {precision} | {chains / took:.3g} | {took:.3g} | {len(times) - 1} "
        f"| {acceptance:.2f} | {iterations:.0f} |",
        flush=True,
    )


TABLES = {"apply": apply, "cg": solves, "hmc": trajectories}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter runs and smaller lattices")
    parser.add_argument("--only", choices=TABLES, help="one table only")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {len(os.sched_getaffinity(0))} cores")
    for name, table in TABLES.items():
        if options.only in (None, name):
            print(f"\n{name}, load {os.getloadavg()[0]:.1f}")
            table(options.quick)


if __name__ == "__main__":
    main()
