"""Cost of joint models against the volume, two-dimensional U(1) at beta 2, kappa 0.265.

    python benchmarks/joint.py [--quick] [--reach R ...] [--masses M ...] [--draws N] [--batch B]

times, per configuration of L x L in batches, the exact draw of the gauge field, the incomplete factorisation with the
determinant it has, and one pseudofermion per monomial with its solve and weight; and the exact determinant beside it. Prints
the exponents p of time ~ V^p from L = 16 on. Single precision, solves in double; medians of three runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from fermions import seconds

from latflow.actions import Determinant, WilsonGauge, monomials
from latflow.dirac import WilsonFermion
from latflow.exact import TorusU1Sampler
from latflow.flows import Identity, IncompleteFactor
from latflow.groups import U1
from latflow.lattice import Geometry
from latflow.models import ExactPrior, FlowModel, JointModel, JointTarget, weigh

BETA, PRIOR_BETA, KAPPA = 2.0, 2.25, 0.265
SIZES = (8, 16, 32, 64)
DENSE = 32  # determinants up to here


def costs(L: int, batch: int, masses: tuple[float, ...], reach: tuple[int, ...], draws: int) -> dict[str, float]:
    """Milliseconds per configuration."""
    geometry = Geometry((L, L))
    fermion = WilsonFermion(geometry, U1(), KAPPA)
    factors = monomials(fermion, masses)
    marginal = FlowModel(ExactPrior(TorusU1Sampler(geometry, PRIOR_BETA, jnp.float32)), Identity())
    model = JointModel(marginal, None, tuple(IncompleteFactor(m, reach) for m in factors), "conditional")
    target = JointTarget(WilsonGauge(geometry, U1(), BETA), factors)
    key = jax.random.key(1)
    draw = eqx.filter_jit(lambda key: model.draw(key, batch))
    fields, _ = draw(key)
    keys = jax.random.split(key, batch)

    def factorise(field: jax.Array) -> jax.Array:
        return sum((bound.log_abs_det for bound in model.maps(field)), jnp.zeros(()))

    def weighing(number: int):
        action = dataclasses.replace(target, draws=number)
        return eqx.filter_jit(jax.vmap(lambda key, field: weigh(model, action, key, field)[:2], in_axes=(0, -1)))

    times = {
        "draw": seconds(draw, key, runs=3),
        "factorise": seconds(jax.jit(jax.vmap(factorise, in_axes=-1)), fields, runs=3),
    }
    one, many = (seconds(weighing(number), keys, fields, runs=3) for number in (1, 1 + draws))
    times |= {"draw and weigh": (many - one) / draws, "all, one draw": times["draw"] + one}
    if L <= DENSE:
        determinant = Determinant(fermion)
        times["determinant"] = seconds(jax.jit(jax.vmap(determinant, in_axes=-1)), fields, runs=3)
    iterations = weighing(1)(keys, fields)[1].max()  # the batch goes on until the last one is there
    return {**{f"{name}, ms": 1000 * value / batch for name, value in times.items()}, "iterations": float(iterations)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small lattices only")
    parser.add_argument("--reach", type=int, nargs="*", default=[4, 8, 10, 12, 16])
    parser.add_argument("--masses", type=float, nargs="*", default=[])
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    sizes = [L for L in SIZES if L <= 16 or not options.quick]
    print(f"reach {options.reach}, masses {options.masses}, batches of {options.batch}, load {os.getloadavg()[0]:.1f}")
    table = {L: costs(L, options.batch, tuple(options.masses), tuple(options.reach), options.draws) for L in sizes}
    names = list(table[sizes[0]])
    print("| L | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for L, row in table.items():
        print(f"| {L} | " + " | ".join(f"{row[name]:.3g}" if name in row else "-" for name in names) + " |")
    for name in names:
        large = [L for L in sizes if L >= 16 and name in table[L]]
        if len(large) > 1 and name.endswith("ms"):
            power = np.polyfit(2 * np.log(large), np.log([table[L][name] for L in large]), 1)[0]
            print(f"{name}: V^{power:.2f}")


if __name__ == "__main__":
    main()
