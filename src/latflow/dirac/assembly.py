"""The matrix of an even/odd complement, put together from paths of two steps.

D_sc connects an even site with itself and with those two steps away, so its matrix has few entries: for each target x and each
pair of directions a, b the product H_a(x) A_oo^-1(y) H_b(y), y = x + a, stands at (x, y + b). Applying the operator to all unit
vectors would cost O(V^2) in place of O(V).
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex

from latflow.dirac.hopping import AbstractHalfHopping
from latflow.dirac.site_terms import AbstractSiteTerm
from latflow.lattice import Halves


def neighbours(splitting: Halves, parity: int) -> np.ndarray:
    """Index, within the half of the other parity, of the neighbour of each site of `parity`: `(2 Nd, sites)`, directions
    +0, -0, +1, ..."""
    with jax.ensure_compile_time_eval():  # numbers, also while the caller is traced
        other = jnp.arange(np.prod(splitting.shape)).reshape(splitting.shape)
        directions = [(mu, step) for mu in range(splitting.geometry.Nd) for step in (1, -1)]
        return np.stack([np.asarray(splitting.shift(other, mu, parity, step)).reshape(-1) for mu, step in directions])


def dense_complement(
    hopping: AbstractHalfHopping, even: AbstractSiteTerm, odd_inverse: AbstractSiteTerm
) -> Complex[Array, "size size"]:
    """A_ee - H_eo A_oo^-1 H_oe as a matrix, the index of a spinor in the order of its axes."""
    splitting = hopping.splitting
    n, sites = hopping.spinor_shape[0] * hopping.spinor_shape[1], int(np.prod(splitting.shape))
    onto_even, onto_odd = (hopping.blocks(parity).reshape(-1, n, n, sites) for parity in (0, 1))
    inverse = odd_inverse.matrix(n, sites, hopping.dtype)
    back = _product(inverse[None], onto_odd)
    to_odd, to_even = neighbours(splitting, 0), neighbours(splitting, 1)
    x = np.arange(sites)
    values, targets = [even.matrix(n, sites, hopping.dtype)], [x]
    for a, b in itertools.product(range(len(to_odd)), range(len(to_even))):
        if hopping.vanishes(a, b) and odd_inverse.is_scalar:
            continue  # there and back again
        values.append(-_product(onto_even[a], back[b][:, :, to_odd[a]]))
        targets.append(to_even[b][to_odd[a]])
    column = np.concatenate([np.broadcast_to(t, (n, n, sites)).reshape(1, n, n, sites) for t in targets])
    i, j, at = (np.arange(k).reshape(shape) for k, shape in ((n, (1, n, 1, 1)), (n, (1, 1, n, 1)), (sites, (1, 1, 1, sites))))
    flat = (i * sites + at) * (n * sites) + j * sites + column
    matrix = jnp.zeros(((n * sites) ** 2,), hopping.dtype).at[flat.reshape(-1)].add(jnp.stack(values).reshape(-1))
    return matrix.reshape(n * sites, n * sites)


def _product(a: Complex[Array, "... sites"], b: Complex[Array, "... sites"]) -> Complex[Array, "... sites"]:
    """Matrix products of blocks `(..., n, n, sites)`."""
    return (a[..., :, :, None, :] * b[..., None, :, :, :]).sum(-3)
