"""Cost of dynamical fermions against the volume: pseudofermions against the exact determinant, two-dimensional U(1).

    python benchmarks/fermions_scaling.py [--quick] [--plot FILE]

times value and force of the pseudofermion action (one solve to 1e-8, even/odd preconditioned) and of log det D D^dagger by
dense LU for one configuration of L x L at beta = 2, in double precision, and prints the exponents p of time ~ V^p fitted from
L = 16 on. kappa = 0.2 keeps the condition number fixed, so that the number of iterations hardly grows. Medians of five runs; a
determinant that takes long is timed once. FILE gets a plot. `taskset -c 0` in front gives one core in CPU time.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import jax
import numpy as np
from fermions import links, seconds

from latflow.actions import Determinant, Pseudofermion, monomials
from latflow.dirac import WilsonFermion
from latflow.groups import U1
from latflow.lattice import Geometry

KAPPA, FIRST = 0.2, 16
SIZES = {"pseudofermion": (4, 8, 16, 24, 32, 48, 64, 96, 128), "determinant": (4, 8, 16, 24, 32, 48)}
QUICK = {"pseudofermion": (4, 8, 16, 24, 32), "determinant": (4, 8, 16, 24)}
SLOW = 24  # determinants from here on take seconds: no repeated runs


def pseudofermion(L: int) -> tuple[float, int]:
    """(seconds, iterations)."""
    geometry = Geometry((L, L))
    (monomial,) = monomials(WilsonFermion(geometry, U1(), KAPPA))
    field = links(U1(), geometry, "double")
    eta = monomial.noise(jax.random.key(1), field)
    phi, _ = monomial.heatbath(field, eta, tol=1e-10, max_iterations=1000)
    solve = jax.jit(lambda field, phi: Pseudofermion(monomial, phi, 1e-8).solved(field))
    return seconds(solve, field, phi), int(solve(field, phi).info.iterations)


def determinant(L: int) -> float:
    geometry = Geometry((L, L))
    action = Determinant(WilsonFermion(geometry, U1(), KAPPA))
    field = links(U1(), geometry, "double")
    once = {} if L < SLOW else {"lasting": 0.0, "runs": 1 if L > SLOW else 3}
    return seconds(jax.jit(action.value_and_force), field, **once)


def exponent(sizes: tuple[int, ...], times: list[float]) -> float:
    large = np.array(sizes) >= FIRST
    return float(np.polyfit(2 * np.log(np.array(sizes)[large]), np.log(np.array(times)[large]), 1)[0])


def plot(path: Path, sizes: dict[str, tuple[int, ...]], times: dict[str, list[float]], powers: dict[str, float]) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "latflow"  # the same bytes for the same numbers
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
    for (name, seconds_of), marker in zip(times.items(), "os", strict=True):
        V = np.array(sizes[name]) ** 2
        (line,) = axes.loglog(V, seconds_of, marker, label=f"{name}, $V^{{{powers[name]:.2f}}}$")
        large = np.array(sizes[name]) >= FIRST
        fit = np.polyfit(np.log(V[large]), np.log(np.array(seconds_of)[large]), 1)
        axes.loglog(V, np.exp(np.polyval(fit, np.log(V))), color=line.get_color(), linewidth=1)
    axes.set_xlabel("sites")
    axes.set_ylabel("seconds, value and force")
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small lattices only")
    parser.add_argument("--plot", type=Path, help="where the plot goes")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    cores = len(os.sched_getaffinity(0))
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {cores} cores, load {os.getloadavg()[0]:.1f}")
    sizes = QUICK if options.quick else SIZES
    times: dict[str, list[float]] = {name: [] for name in sizes}
    print("\n| L | sites | pseudofermion ms | iterations | us per site | determinant ms | ratio |")
    print("|---|---|---|---|---|---|---|")
    for L in sizes["pseudofermion"]:
        pf, iterations = pseudofermion(L)
        times["pseudofermion"].append(pf)
        row = f"| {L} | {L**2} | {1e3 * pf:.3g} | {iterations} | {1e6 * pf / L**2:.2f} "
        if L in sizes["determinant"]:
            det = determinant(L)
            times["determinant"].append(det)
            row += f"| {1e3 * det:.3g} | {det / pf:.3g} |"
        else:
            row += "| | |"
        print(row, flush=True)
    powers = {name: exponent(sizes[name], times[name]) for name in sizes}
    print("\n" + ", ".join(f"{name}: V^{p:.2f}" for name, p in powers.items()) + f"; load {os.getloadavg()[0]:.1f}")
    if options.plot:
        plot(options.plot, sizes, times, powers)


if __name__ == "__main__":
    main()
