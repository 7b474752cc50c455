"""Condition numbers in the Schwinger model of 2207.08945, Sec. IV A: L = 8, beta = 2, kappa = 0.265.

    python benchmarks/condition_numbers.py [--number N] [--seed SEED]

draws N independent configurations of the exact sampler of pure gauge theory at beta0 = 2.3 and reweights them with
w = exp(-S - log q), S with the exact determinant. Prints mean, median, 90% and 99% quantiles (with bootstrap errors), the
largest value and the ESS, for the condition numbers of D D^dagger, of its even/odd complement M and of the monomials of
Eq. (38) made from M with the masses 0.001, 0.01, 0.05; with only the first one or two of them the last factor is M + 0.001 or
M + 0.01, and the ratios before it are the same. Then, for M, the fraction of configurations whose smallest eigenvalue lies
below epsilon, before and after reweighting, and the share that they have in the mean condition number.
"""

from __future__ import annotations

import argparse
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from latflow.actions import Determinant, WilsonGauge
from latflow.dirac import WilsonFermion
from latflow.exact import TorusU1Sampler
from latflow.groups import U1
from latflow.lattice import Geometry
from latflow.observables.fermion import condition_numbers, singular_values
from latflow.statistics import effective_sample_size, normalised_weights

L, BETA, PRIOR_BETA, KAPPA = 8, 2.0, 2.3, 0.265
MASSES = (0.001, 0.01, 0.05)
CHUNK, RESAMPLES = 256, 1000
LEVELS = (0.5, 0.9, 0.99)
EPSILONS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


NAMES = (
    "D D^dagger",
    "even/odd M",
    *(f"(M + {a:g}) / (M + {b:g})" for a, b in itertools.pairwise((0.0, *MASSES))),
    *(f"M + {mu:g}" for mu in MASSES),
)


def measure(number: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(log weights, condition numbers (number, columns), smallest eigenvalues of M)."""
    geometry = Geometry((L, L))
    sampler, fermion = TorusU1Sampler(geometry, PRIOR_BETA), WilsonFermion(geometry, U1(), KAPPA)
    action = WilsonGauge(geometry, U1(), BETA) + Determinant(fermion)

    def one(key):
        field, log_q = sampler.sample_and_log_density(key)
        whole = fermion.operator(field)
        schur = whole.schur()
        *ratios, heaviest = condition_numbers(schur, MASSES)
        last = [condition_numbers(schur, (mu,))[1] for mu in MASSES[:-1]]
        columns = jnp.stack([*condition_numbers(whole), *condition_numbers(schur), *ratios, *last, heaviest])
        return -action(field) - log_q, columns, singular_values(schur)[-1] ** 2

    draw = jax.jit(jax.vmap(one))
    keys = jax.random.split(jax.random.key(seed), number)
    parts = [jax.device_get(draw(keys[i : i + CHUNK])) for i in range(0, number, CHUNK)]
    log_weight, columns, smallest = (np.concatenate(part) for part in zip(*parts, strict=True))
    return log_weight, columns, smallest


def summary(value: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mean and quantiles of sorted values."""
    below = np.cumsum(weight)
    found = np.searchsorted(below, np.array(LEVELS) * below[-1])
    return np.array([weight @ value / below[-1], *value[np.minimum(found, len(value) - 1)]])


def with_errors(value: np.ndarray, weight: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(`summary`, its bootstrap errors)."""
    order = np.argsort(value)
    value, weight = value[order], weight[order]
    n = len(value)
    again = [summary(value, weight * np.bincount(rng.integers(0, n, n), minlength=n)) for _ in range(RESAMPLES)]
    return summary(value, weight), np.std(again, axis=0)


def rows(title: str, columns: np.ndarray, weight: np.ndarray, rng: np.random.Generator) -> None:
    print(f"\n| {title} | mean | median | 90% | 99% | largest |")
    print("|---|---|---|---|---|---|")
    for name, value in zip(NAMES, columns.T, strict=False):
        cells = [f"{x:.4g} ± {e:.2g}" for x, e in zip(*with_errors(value, weight, rng), strict=True)]
        print(f"| {name} | {' | '.join(cells)} | {value.max():.3g} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=4096, help="configurations (default 4096)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    log_weight, columns, smallest = measure(options.number, options.seed)
    weight, flat = normalised_weights(log_weight) / options.number, np.full(options.number, 1 / options.number)
    ess = float(effective_sample_size(log_weight))
    print(f"L = {L}, beta = {BETA}, kappa = {KAPPA}, prior beta0 = {PRIOR_BETA}")
    print(f"{options.number} configurations, seed {options.seed}, ESS {ess:.4f} ({ess * options.number:.0f} configurations)")
    rng = np.random.default_rng(options.seed)
    rows("reweighted", columns, weight, rng)
    rows("prior alone", columns[:, :2], flat, rng)
    print("\n| epsilon | prior P(lambda < epsilon) | reweighted | share of mean cond(M) | configurations |")
    print("|---|---|---|---|---|")
    mean = weight @ columns[:, 1]
    for epsilon in EPSILONS:
        low = smallest < epsilon
        share = weight[low] @ columns[low, 1] / mean
        print(f"| {epsilon:g} | {low.mean():.2e} | {weight[low].sum():.2e} | {share:.2f} | {low.sum()} |")


if __name__ == "__main__":
    main()
