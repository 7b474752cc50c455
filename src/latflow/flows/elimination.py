"""Incomplete block LU decomposition of operators with short couplings, for many configurations at once.

Blocks F_ij couple the site j to the site i, and a pattern of pairs (i, j) is kept (`latflow.flows.elimination_plan`). With
sites in the order of elimination, the decomposition L U that agrees with F on the pattern (Y. Saad, Iterative Methods for
Sparse Linear Systems, 2nd ed., Sec. 10.3) is, row by row,

    for k < i:   L_ik = F_ik U_kk^-1,    F_ij <- F_ij - L_ik U_kj for j > k, dropped where (i, j) is not kept.

L has unit blocks on its diagonal. For n x n blocks, V sites, w kept couplings per site the work is O(V w^2 n^3).

Its derivative goes through the same triples. With the cotangent G of F, known for later rows and later columns of the row,

    G_kj = Ubar_kj - sum_{i > k} L_ik^T G_ij  (j >= k),    G_ik = (Lbar_ik - sum_{j > k} G_ij U_kj^T) U_kk^-T  (k < i).

Arrays of blocks are `(V, w + 1, n, n)`, the last slot zero. Vectorised over configurations the batch is the last axis, of
everything: `jax.vmap` of a loop would move it to the front, where blocks of a few numbers are all that is contiguous. Inside,
blocks have one axis B more than outside and vectors `(V, n)` two, B and R: R counts vectors that share their blocks. Loops only
gather; XLA scatters one index at a time on CPUs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex

from latflow.flows.elimination_plan import Plan

Blocks = Complex[Array, "V slots n n ..."]
Pivots = Complex[Array, "V n n ..."]
Vectors = Complex[Array, "V n ..."]


class Elimination(NamedTuple):
    """The operations of one plan, each for one configuration, mapped by `jax.vmap` and differentiable in reverse mode."""

    decompose: Callable[[Blocks], tuple[Blocks, Pivots]]
    """F -> (L below and U on and above the diagonal, the inverses of the diagonal of U). The latter come without derivative."""
    multiply: Callable[[Blocks, Pivots, Vectors], Vectors]
    """x -> L U x."""
    solve: Callable[[Blocks, Pivots, Vectors], Vectors]
    """b -> U^-1 L^-1 b."""


@functools.cache
def elimination(plan: Plan) -> Elimination:
    """The operations of a plan."""
    blocks_only = functools.partial(_mapped, kinds=("blocks",), outs=("blocks", "blocks"))
    forward, backward = functools.partial(_decompose, plan), functools.partial(_decompose_transpose, plan)
    decompose_ = blocks_only(forward)
    decompose_transpose_ = _mapped(backward, ("blocks",) * 3, ("blocks",))

    @jax.custom_vjp
    def decompose(blocks: Blocks) -> tuple[Blocks, Pivots]:
        return decompose_(blocks)

    def decompose_fwd(blocks: Blocks) -> Any:
        out = decompose_(blocks)
        return out, out

    decompose.defvjp(decompose_fwd, lambda saved, bar: decompose_transpose_(*saved, bar[0]))

    def linear(function: Callable, transpose: Callable) -> Callable[[Blocks, Pivots, Vectors], Vectors]:
        with_middle = _mapped(functools.partial(function, plan), ("blocks", "blocks", "vectors"), ("vectors", "vectors"))
        pull_back = _mapped(functools.partial(transpose, plan), ("blocks", "blocks", *["vectors"] * 3), ("blocks", "vectors"))

        @jax.custom_vjp
        def operation(blocks: Blocks, inverse: Pivots, x: Vectors) -> Vectors:
            return with_middle(blocks, inverse, x)[0]

        def fwd(blocks: Blocks, inverse: Pivots, x: Vectors) -> Any:
            y, middle = with_middle(blocks, inverse, x)
            return y, (blocks, inverse, x if function is _multiply else y, middle)

        def bwd(saved: Any, bar: Vectors) -> Any:
            blocks_bar, x_bar = pull_back(*saved, bar)
            return blocks_bar, jnp.zeros_like(saved[1]), x_bar

        operation.defvjp(fwd, bwd)
        return operation

    return Elimination(decompose, linear(_multiply, _multiply_transpose), linear(_solve, _solve_transpose))


def _mapped(function: Callable, kinds: Sequence[str], outs: Sequence[str]) -> Callable:
    """`function` of arrays with the batch axes of this module, as one of arrays without: axes that `jax.vmap` adds go there."""
    vectors = [kind == "vectors" for kind in kinds]
    share = any(vectors) and "blocks" not in outs

    @jax.custom_batching.custom_vmap
    def many(*args: Array) -> Any:
        return function(*args)

    @many.def_vmap
    def _(axis_size: int, in_batched: Any, *args: Array) -> tuple[Any, Any]:
        # R grows if only vectors are mapped, else B
        shared = share and all(v or not batched for v, batched in zip(vectors, in_batched, strict=True))

        def merge(x: Array, vector: bool, batched: bool) -> Array:
            if shared and not vector:
                return x
            x = x if batched else jnp.broadcast_to(x[None], (axis_size, *x.shape))
            at = x.ndim - 2 if vector and not shared else x.ndim - 1
            x = jnp.moveaxis(x, 0, at)
            return x.reshape(*x.shape[: at - 1], -1, *x.shape[at + 1 :])

        def separate(x: Array, kind: str) -> Array:
            at = x.ndim - 2 if kind == "vectors" and not shared else x.ndim - 1
            return jnp.moveaxis(x.reshape(*x.shape[:at], -1, axis_size, *x.shape[at + 1 :]), at + 1, 0)

        out = many(*map(merge, args, vectors, in_batched))
        out = tuple(map(separate, out, outs))
        return out, (True,) * len(out)

    def one(*args: Array) -> Any:
        out = many(*(x[..., None, None] if v else x[..., None] for x, v in zip(args, vectors, strict=True)))
        return tuple(x[..., 0, 0] if kind == "vectors" else x[..., 0] for x, kind in zip(out, outs, strict=True))

    return one


class _Tables:
    """The tables of a plan as arrays inside a trace."""

    def __init__(self, plan: Plan):
        self.order, self.site, self.time = jnp.asarray(plan.order), jnp.asarray(plan.site), jnp.asarray(plan.time)
        self.opposite, self.difference = jnp.asarray(plan.opposite), jnp.asarray(plan.difference)
        self.common, self.place = jnp.asarray(plan.common), jnp.asarray(plan.place)
        self.earlier, self.later = jnp.asarray(plan.earlier), jnp.asarray(plan.later)
        counts = (np.sum(table < plan.width, 1, dtype=np.int32) for table in (plan.earlier, plan.later))
        self.num_earlier, self.num_later = map(jnp.asarray, counts)
        self.empty = plan.width

    def shared(self, i: Array, s: Array, since: Array) -> tuple[Array, Array]:
        """(slots t of row i, where those sites stand in the row of the site in its slot s), for the sites which both rows have
        and which are eliminated at `since` >= 0 or later; others point to the empty slot of the second row."""
        t = self.common[s]
        return t, jnp.where(self.time[i, t] >= since, self.difference[s, t], self.empty)


def _take(x: Array, index: Array) -> Array:
    return x.at[index].get(mode="promise_in_bounds")


def _put(x: Array, value: Array, i: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(x, value, i, 0)


def _product(a: Array, b: Array) -> Array:
    """Products of blocks `(..., n, n, B)`."""
    return (a[..., :, :, None, :] * b[..., None, :, :, :]).sum(-3)


def _T(a: Array) -> Array:
    return jnp.swapaxes(a, -2, -3)


def _inverse(a: Array) -> Array:
    """Inverses of `(n, n, B)`."""
    if len(a) == 1:
        return 1 / a
    if len(a) == 2:
        adjugate = jnp.stack([jnp.stack([a[1, 1], -a[0, 1]]), jnp.stack([-a[1, 0], a[0, 0]])])
        return adjugate / (a[0, 0] * a[1, 1] - a[0, 1] * a[1, 0])[None, None]
    return jnp.moveaxis(jnp.linalg.inv(jnp.moveaxis(a, -1, 0)), 0, -1)


def _decompose(plan: Plan, blocks: Blocks) -> tuple[Blocks, Pivots]:
    t, zero = _Tables(plan), jnp.zeros_like(blocks[0, :1])

    def eliminate(step: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        rows, inverse = state
        i = t.order[step]

        def subtract(u: Array, row: Array) -> Array:
            s = t.earlier[i, u]
            k = t.site[i, s]
            L = _product(row[s], inverse[k])
            _, index = t.shared(i, s, t.time[k, 0] + 1)
            change = jnp.concatenate([_product(L[None], _take(rows[k], index)), zero])
            return _put(row - _take(change, t.place[s]), L, s)

        row = jax.lax.fori_loop(0, t.num_earlier[i], subtract, rows[i])
        return _put(rows, row, i), _put(inverse, _inverse(row[0]), i)

    return jax.lax.fori_loop(0, plan.volume, eliminate, (blocks, jnp.zeros_like(blocks[:, 0])))


def _decompose_transpose(plan: Plan, rows: Blocks, inverse: Pivots, bar: Blocks) -> tuple[Blocks]:
    t, zero = _Tables(plan), jnp.zeros_like(rows[0, :1])
    bar = jnp.where((t.time >= 0)[..., None, None, None], bar, 0)

    def eliminate(step: Array, G: Array) -> Array:
        k = t.order[plan.volume - 1 - step]

        def upper(u: Array, row: Array) -> Array:
            s = t.later[k, u]
            i = t.site[k, s]
            L = rows[i, t.opposite[s]]
            _, index = t.shared(k, s, t.time[k, 0])
            change = jnp.concatenate([_product(_T(L)[None], _take(G[i], index)), zero])
            return row - _take(change, t.place[s])

        def lower(u: Array, row: Array) -> Array:
            s = t.earlier[k, t.num_earlier[k] - 1 - u]
            m = t.site[k, s]
            slots, index = t.shared(k, s, t.time[m, 0] + 1)
            total = _product(_take(row, slots), _T(_take(rows[m], index))).sum(0)
            return _put(row, _product(row[s] - total, _T(inverse[m])), s)

        row = jax.lax.fori_loop(0, t.num_later[k], upper, G[k])
        return _put(G, jax.lax.fori_loop(0, t.num_earlier[k], lower, row), k)

    return (jax.lax.fori_loop(0, plan.volume, eliminate, bar),)


def _transpose(plan: Plan, rows: Blocks) -> Blocks:
    """The blocks of the transposed matrix: what was above the diagonal stands below."""
    flat = rows.reshape(-1, *rows.shape[2:])
    turned = _T(_take(flat, jnp.asarray(plan.site * (plan.width + 1) + plan.opposite[None])))
    return jnp.concatenate([turned, jnp.zeros_like(turned[:, :1])], 1)


def _triangle(plan: Plan, upper: bool) -> np.ndarray:
    """(V, w): which slots are above the diagonal, or below it."""
    time = plan.time[:, :-1]
    return time > time[:, :1] if upper else (time >= 0) & (time < time[:, :1])


def _apply(plan: Plan, rows: Blocks, x: Vectors, upper: bool) -> Vectors:
    """What is above the diagonal, or below it, times x."""
    kept, site = jnp.asarray(_triangle(plan, upper)), jnp.asarray(plan.site)

    def add(s: Array, y: Array) -> Array:
        block = jnp.where(kept[:, s][:, None, None, None], rows[:, s], 0)
        return y + (block[..., None] * _take(x, site[:, s])[:, None]).sum(2)

    shape = (*x.shape[:2], rows.shape[-1], x.shape[-1])
    return jax.lax.fori_loop(1, plan.width, add, jnp.zeros(shape, x.dtype))


def _sweep(plan: Plan, rows: Blocks, inverse: Pivots | None, b: Vectors, upper: bool) -> Vectors:
    """The solution for the triangle above the diagonal, or below it, and the diagonal of this `inverse` (None: unit blocks)."""
    order, kept, site = jnp.asarray(plan.order), jnp.asarray(_triangle(plan, upper)), jnp.asarray(plan.site)

    def substitute(step: Array, x: Array) -> Array:
        i = order[plan.volume - 1 - step if upper else step]
        known = jnp.where(kept[i][:, None, None, None], _take(x, site[i]), 0)
        rest = b[i] - (rows[i, :-1][..., None] * known[:, None]).sum((0, 2))
        rest = rest if inverse is None else (inverse[i][..., None] * rest[None]).sum(1)
        return _put(x, rest, i)

    return jax.lax.fori_loop(0, plan.volume, substitute, jnp.zeros_like(b))


def _outer(plan: Plan, lower: tuple[Array, Array], upper: tuple[Array, Array]) -> Blocks:
    """Cotangents of L, the outer products a_i b_j of `lower`, and of U, those of `upper`."""
    below, site = jnp.asarray(_triangle(plan, False))[:, :, None, None, None], jnp.asarray(plan.site)

    def product(a: Array, b: Array) -> Array:
        return (a[:, None, :, None] * _take(b, site)[:, :, None]).sum(-1)

    out = jnp.where(below, product(*lower), product(*upper))
    return jnp.concatenate([out, jnp.zeros_like(out[:, :1])], 1)


def _diagonal(rows: Blocks, x: Vectors) -> Vectors:
    return (rows[:, 0][..., None] * x[:, None]).sum(2)


def _multiply(plan: Plan, rows: Blocks, inverse: Pivots, x: Vectors) -> tuple[Vectors, Vectors]:
    """(L U x, U x)."""
    y = _diagonal(rows, x) + _apply(plan, rows, x, True)
    return y + _apply(plan, rows, y, False), y


def _multiply_transpose(
    plan: Plan, rows: Blocks, inverse: Pivots, x: Vectors, y: Vectors, bar: Vectors
) -> tuple[Blocks, Vectors]:
    turned = _transpose(plan, rows)
    y_bar = bar + _apply(plan, turned, bar, True)
    x_bar = _diagonal(turned, y_bar) + _apply(plan, turned, y_bar, False)
    return _outer(plan, (bar, y), (y_bar, x)), x_bar


def _solve(plan: Plan, rows: Blocks, inverse: Pivots, b: Vectors) -> tuple[Vectors, Vectors]:
    """(U^-1 L^-1 b, L^-1 b)."""
    y = _sweep(plan, rows, None, b, False)
    return _sweep(plan, rows, inverse, y, True), y


def _solve_transpose(plan: Plan, rows: Blocks, inverse: Pivots, x: Vectors, y: Vectors, bar: Vectors) -> tuple[Blocks, Vectors]:
    turned = _transpose(plan, rows)
    y_bar = _sweep(plan, turned, _T(inverse), bar, False)
    b_bar = _sweep(plan, turned, None, y_bar, True)
    return -_outer(plan, (b_bar, y), (y_bar, x)), b_bar
