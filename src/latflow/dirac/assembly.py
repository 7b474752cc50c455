"""Operators put together from blocks between sites: from O(size) numbers, where applying them to all unit vectors costs
O(size^2).

An even/odd complement connects an even site with itself and with those two steps away: for each target x and each pair of
directions a, b the product H_a(x) A_oo^-1(y) H_b(y), y = x + a, stands at (x, y + b).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex

from latflow.dirac.hopping import AbstractHalfHopping, AbstractHopping
from latflow.dirac.site_terms import AbstractSiteTerm
from latflow.lattice import Halves


class Coupling(NamedTuple):
    """What the spinors at x + `step` contribute to those at x: `blocks` `(n, n, sites)` of the index (spin, colour), n = Ns Nc;
    sites x in the order of the operator's spinors. A step may occur more than once, and its contributions add up."""

    step: tuple[int, ...]
    blocks: Complex[Array, "n n sites"]


def neighbours(splitting: Halves, parity: int) -> np.ndarray:
    """Index, within the half of the other parity, of the neighbour of each site of `parity`: `(2 Nd, sites)`, directions
    +0, -0, +1, ..."""
    with jax.ensure_compile_time_eval():  # numbers, also while the caller is traced
        other = jnp.arange(np.prod(splitting.shape)).reshape(splitting.shape)
        directions = [(mu, step) for mu in range(splitting.geometry.Nd) for step in (1, -1)]
        return np.stack([np.asarray(splitting.shift(other, mu, parity, step)).reshape(-1) for mu, step in directions])


def full_couplings(hopping: AbstractHopping, site: AbstractSiteTerm) -> list[Coupling]:
    """A + H on the whole lattice."""
    n, sites = hopping.spinor_shape[0] * hopping.spinor_shape[1], int(np.prod(hopping.spinor_shape[2:]))
    steps, blocks = _unit_steps(len(hopping.spinor_shape) - 2), hopping.blocks().reshape(-1, n, n, sites)
    nearest = [Coupling(tuple(step), block) for step, block in zip(steps.tolist(), blocks, strict=True)]
    return [Coupling((0,) * steps.shape[1], site.matrix(n, sites, hopping.dtype)), *nearest]


def complement_couplings(hopping: AbstractHalfHopping, even: AbstractSiteTerm, odd_inverse: AbstractSiteTerm) -> list[Coupling]:
    """A_ee - H_eo A_oo^-1 H_oe on the even sites."""
    splitting = hopping.splitting
    n, sites = hopping.spinor_shape[0] * hopping.spinor_shape[1], int(np.prod(splitting.shape))
    onto_even, onto_odd = (hopping.blocks(parity).reshape(-1, n, n, sites) for parity in (0, 1))
    inverse = odd_inverse.matrix(n, sites, hopping.dtype)
    back, to_odd = _product(inverse[None], onto_odd), neighbours(splitting, 0)
    steps = _unit_steps(splitting.geometry.Nd)
    out = [Coupling((0,) * splitting.geometry.Nd, even.matrix(n, sites, hopping.dtype))]
    for a, b in itertools.product(range(len(steps)), repeat=2):
        if hopping.vanishes(a, b) and odd_inverse.is_scalar:
            continue  # there and back again
        out.append(Coupling(tuple((steps[a] + steps[b]).tolist()), -_product(onto_even[a], back[b][:, :, to_odd[a]])))
    return out


def dense_matrix(couplings: Sequence[Coupling], splitting: Halves) -> Complex[Array, "size size"]:
    """The matrix of couplings between even sites, the index of a spinor in the order of its axes."""
    n, _, sites = couplings[0].blocks.shape
    extents = np.array(splitting.geometry.shape)[:, None]
    x = splitting.coordinates(0).reshape(len(extents), sites)
    at = np.zeros(splitting.geometry.shape, int)
    at[tuple(x)] = np.arange(sites)
    column = np.stack([at[tuple((x + np.array(c.step)[:, None]) % extents)] for c in couplings])[:, None, None]
    i, j, k = (np.arange(m).reshape(shape) for m, shape in ((n, (1, n, 1, 1)), (n, (1, 1, n, 1)), (sites, (1, 1, 1, sites))))
    flat = (i * sites + k) * (n * sites) + j * sites + column
    values = jnp.stack([c.blocks for c in couplings])
    matrix = jnp.zeros(((n * sites) ** 2,), values.dtype).at[flat.reshape(-1)].add(values.reshape(-1))
    return matrix.reshape(n * sites, n * sites)


def _unit_steps(Nd: int) -> np.ndarray:
    """+0, -0, +1, ...: `(2 Nd, Nd)`."""
    return np.stack([np.eye(Nd, dtype=int), -np.eye(Nd, dtype=int)], 1).reshape(2 * Nd, Nd)


def _product(a: Complex[Array, "... sites"], b: Complex[Array, "... sites"]) -> Complex[Array, "... sites"]:
    """Matrix products of blocks `(..., n, n, sites)`."""
    return (a[..., :, :, None, :] * b[..., None, :, :, :]).sum(-3)
