"""Speed of the layers for SU(3): forward pass and gradient of one layer, per link that it moves.

    python benchmarks/layers.py [--quick]

prints one table for 8^4 (4^4 with --quick), four configurations, single precision: CPU time, which a busy machine falsifies
less than wall time, median of five, and the seconds to compile. "eigh" is the spectral layer with the closed form of the
spectrum replaced by `jnp.linalg.eigh` of the Cayley transform, differentiated by JAX; "spectrum" the two by themselves. A
continuous step is one step of the fifth-order scheme, six evaluations, and moves every link.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from latflow.flows import ContinuousFlow, ResidualCoupling, SpectralCoupling, SUNLoopTerms, spectral_coupling
from latflow.flows.staple_view import PlaquetteStaples
from latflow.groups import SUN
from latflow.groups.spectral import _cayley, recompose, spectrum
from latflow.lattice import Geometry, diagonal

BATCH = 4
GROUP = SUN(3)


class Cost(NamedTuple):
    """Microseconds per moved link, seconds until the first result."""

    run: float
    compiling: float


def measured(function: Callable, arguments: tuple, moved: int) -> Cost:
    run = eqx.filter_jit(function)

    def timed() -> float:
        start = time.process_time()
        jax.block_until_ready(run(*arguments))
        return time.process_time() - start

    first = timed()
    return Cost(1e6 * statistics.median(timed() for _ in range(5)) / moved, first)


def of_layer(layer, links, moved: int, direction: str = "forward_batch", gradient: bool = True) -> Cost:
    """Of a bijection: the sum of log dets and a number that depends on every link, with its gradient by the parameters."""

    def loss(layer, links):
        y, log_det = getattr(layer, direction)(links)
        return jnp.sum(log_det) + jnp.sum(jnp.real(y) ** 2)

    return measured(eqx.filter_value_and_grad(loss) if gradient else loss, (layer, links), moved)


def of_spectrum(function: Callable, matrices) -> Cost:
    """Of a spectral map that turns every eigenvalue a little."""

    def loss(p):
        theta, v = function(p)
        return jnp.sum(jnp.real(recompose(v, theta + 0.1 * jnp.sin(theta))) ** 2)

    gradient = eqx.filter_value_and_grad(lambda parts: loss(jax.lax.complex(*parts)))
    return measured(gradient, ((matrices.real, matrices.imag),), matrices[0, 0].size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4^4 instead of 8^4")
    L = 4 if parser.parse_args().quick else 8
    geometry = Geometry((L,) * 4)
    links = GROUP.haar(jax.random.key(0), (4, *geometry.shape, BATCH), jnp.complex64)
    view = PlaquetteStaples(diagonal(geometry, 0), GROUP)
    active = BATCH * geometry.volume // 4
    everything = BATCH * geometry.volume * 4
    key = jax.random.key(1)
    matrices = GROUP.haar(key, (active,), jnp.complex64)
    print(f"{jax.devices()[0].device_kind}, {L}^4, {BATCH} configurations")
    print(f"{'layer':<36} {'us per moved link':>18} {'compile, s':>12}")

    def row(name: str, cost: Cost) -> float:
        print(f"{name:<36} {cost.run:>18.2f} {cost.compiling:>12.1f}", flush=True)
        return cost.run

    closed = row("spectrum, closed form", of_spectrum(spectrum, matrices))
    general = row("spectrum, eigh", of_spectrum(_cayley, matrices))
    print(f"{'  ratio':<36} {general / closed:>18.1f}")
    spectral = SpectralCoupling(view, key=key, phase=0)
    ours = row("spectral layer", of_layer(spectral, links, active))
    spectral_coupling.spectrum = _cayley
    reference = row("spectral layer, eigh", of_layer(spectral, links, active))
    spectral_coupling.spectrum = spectrum
    print(f"{'  ratio':<36} {reference / ours:>18.1f}")
    residual = ResidualCoupling(view, key=key, phase=0)
    row("residual layer, forward only", of_layer(residual, links, active, gradient=False))
    row("residual layer", of_layer(residual, links, active))
    # the strengths start at zero, where the inverse is found in one iteration
    residual = eqx.tree_at(lambda f: f.strengths, residual, jnp.ones_like(residual.strengths))
    row("residual layer, inverse only", of_layer(residual, links, active, "inverse_batch", gradient=False))
    row("residual layer, inverse", of_layer(residual, links, active, "inverse_batch"))
    for name, chosen in (("continuous step, plaquette", ("plaquette",)), ("continuous step, all loops", None)):
        row(name, of_layer(ContinuousFlow(SUNLoopTerms(geometry, GROUP, chosen), steps=1), links, everything))


if __name__ == "__main__":
    main()
