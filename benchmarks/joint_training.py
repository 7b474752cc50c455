"""Training of joint models at the size of the papers: compile time, memory, time of a step, and the convolution it consists of.

    python benchmarks/joint_training.py [--only step|ptc] [--batch B] [--part NAME ...]

step: one gradient of the joint divergence for the recipes of `latflow reproduce` with the layers of `--budget paper`, with and
without rematerialisation. Memory is what the compiler reserves for temporaries at two batch sizes, hence what a configuration
adds and the largest batch in 16 GB; the time is that of a step at the batch given, compiled.

ptc: one parallel-transport convolution, repeated in a compiled loop, in GB/s of what must be read and written at least (links,
coefficients, the field in and out), beside the rate at which a single array of as many bytes is multiplied by a number.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time

import equinox as eqx
import jax
import jax.numpy as jnp
from fermions import repeated, seconds

from latflow.app import builders
from latflow.app.reproduce.figures import FIGURES
from latflow.app.targets import load
from latflow.groups import SUN, U1
from latflow.lattice import Geometry
from latflow.nets.parallel_transport import ParallelTransport, ptc
from latflow.training.joint_losses import joint_reverse_kl

MEMORY = 16e9
# figure, and what is not needed of its run here
PARTS = {
    "S1": ("fig2", ("prior.beta=2.2", "prior.learn=0")),
    "S3": ("fig5", ()),
}
_COLUMNS = ("", "monomials x layers", "remat", "compile, s", "MB per configuration", "batch in 16 GB", "batch", "step, s")


def step(name: str, remat: bool, batch: int) -> str:
    """A row of the table."""
    figure, settings = PARTS[name]
    part = FIGURES[figure].parts[0]
    size = ("pseudofermions.reach=none", f"pseudofermions.remat={str(remat).lower()}")
    config, _ = load(part.recipe, [*part.overrides("paper"), *settings, *size])
    model, target = builders.build_model(config), builders.build_target(config, training=True)
    assert target is not None
    parameters, rest = dataclasses.replace(model, stage="conditional").partition()

    def compiled(size: int):
        gradient = jax.grad(joint_reverse_kl(size), has_aux=True)
        function = eqx.filter_jit(lambda parameters, rest, target, key: gradient(parameters, rest, target, key))
        start = time.perf_counter()
        out = function.lower(parameters, rest, target, jax.random.key(0)).compile()
        return out, time.perf_counter() - start

    small, _ = compiled(batch)
    large, took = compiled(2 * batch)
    used = [c.compiled.memory_analysis().temp_size_in_bytes for c in (small, large)]
    each = (used[1] - used[0]) / batch
    fits = int((MEMORY - used[0] + batch * each) / each)
    run = seconds(small, parameters, rest, target, jax.random.key(0), runs=3, lasting=0.0)
    layers = f"{len(target.monomials)} x {config.pseudofermions.layers}"  # type: ignore[union-attr]
    cells = (name, layers, remat, f"{took:.0f}", f"{each / 1e6:.1f}", fits, batch, f"{run:.2f}")
    return "| " + " | ".join(map(str, cells)) + " |"


def convolution(group: U1 | SUN, shape: tuple[int, ...], K: int, H: int, batch: int) -> str:
    geometry = Geometry(shape)
    keys = jax.random.split(jax.random.key(0), 3)
    links = group.haar(keys[0], (batch, geometry.Nd, *shape), jnp.float32 if isinstance(group, U1) else jnp.complex64)
    links = jnp.moveaxis(links, 0 if isinstance(group, U1) else 2, -1)
    stencil = 2 * geometry.Nd + 1
    M = jax.random.normal(keys[1], (H, stencil, K, *shape, batch), jnp.complex64) / (stencil * K)
    phi = jax.random.normal(keys[2], (K, group.Nc, *shape, batch), jnp.complex64)

    def one(U, M, phi):
        return ptc(ParallelTransport(group, geometry, U), M, phi)

    def loop(given, phi, turns):
        return jax.lax.fori_loop(0, turns, lambda _, phi: jax.vmap(one, -1, -1)(*given, phi)[:K], phi)

    rate = (links.size * links.dtype.itemsize + 8 * (M.size + phi.size + phi.size * H // K)) / repeated(
        jax.jit(loop), (links, M), phi, 0.3
    )
    nbytes = links.size * links.dtype.itemsize + 8 * (M.size + phi.size)
    array = jnp.ones(nbytes // 8, jnp.complex64)
    copy = jax.jit(lambda _, x, turns: jax.lax.fori_loop(0, turns, lambda _, x: x * (1 + 1e-7), x))
    memory = 2 * nbytes / repeated(copy, None, array, 0.3)
    name = "U(1)" if isinstance(group, U1) else f"SU({group.Nc})"
    size = " x ".join(map(str, shape))
    return f"| {name} | {size} | {K} -> {H} | {batch} | {rate / 1e9:.2f} | {memory / 1e9:.2f} | {rate / memory:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("step", "ptc"))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--part", nargs="*", default=list(PARTS), choices=list(PARTS))
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print(f"load {os.getloadavg()[0]:.1f}")
    if options.only != "ptc":
        print("| " + " | ".join(_COLUMNS) + " |")
        print("|---" * len(_COLUMNS) + "|")
        for name in options.part:
            for remat in (False, True):
                print(step(name, remat, options.batch), flush=True)
    if options.only != "step":
        print("| group | lattice | features | batch | GB/s | memory, GB/s | fraction |")
        print("|---" * 7 + "|")
        for group, shape, K, H, batch in (
            (U1(), (16, 16), 1, 1, 64),
            (U1(), (16, 16), 4, 4, 64),
            (SUN(3), (16, 16), 4, 4, 16),
            (SUN(3), (4, 4, 4, 4), 4, 4, 16),
            (SUN(3), (8, 8, 8, 8), 4, 4, 1),
        ):
            print(convolution(group, shape, K, H, batch), flush=True)


if __name__ == "__main__":
    main()
