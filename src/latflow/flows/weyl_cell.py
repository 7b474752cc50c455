"""Eigenangles of SU(N) matrices up to permutation, as numbers in a box.

In descending order the angles theta_1 >= ... >= theta_N > theta_1 - 2 pi with sum 0 are given by their gaps g_i = theta_i -
theta_{i+1} >= 0 and g_N = 2 pi - sum of the others: a simplex, the canonical cell of 2008.05456. Box coordinates in [0, 1] are
the relative lengths s_k = g_k / (g_k + ... + g_{N-1}), k = 1 .. N-2, and the spread r = (theta_1 - theta_N) / 2 pi, which comes
last. In them Haar measure has the density

    H = prod_{i<j} 4 sin^2((theta_i - theta_j)/2)  r^(N-2) prod_k (1 - s_k)^(N-2-k)

up to a constant, so a map of the box with eigenvectors kept has the Jacobian (H(image) / H) |d image / d box| on the group.
A map given on the cell alone is the same for every order of the eigenvalues. Where eigenvalues coincide it need not be
smooth: the Jacobian may depend on the direction in which they part. These points have codimension three or more.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Array, Float

from latflow.groups.spectral import ordered, resolution

Box = Float[Array, "coordinates ..."]


class Cell(NamedTuple):
    """`box` (N-1, ...); `order` (N, N, ...): order[k, i] is 1 where eigenvalue i is the k-th of the cell, else 0."""

    box: Box
    order: Float[Array, "Nc Nc ..."]


def to_cell(angles: Float[Array, "Nc ..."]) -> Cell:
    """Angles in any order and any branch, with sum 0 modulo 2 pi. Coinciding ones are taken `resolution` apart."""
    Nc, dtype = angles.shape[0], angles.dtype
    rank = jnp.sum(ordered(angles), axis=0)  # how many come before
    winding = jnp.round(jnp.sum(angles, axis=0) / (2 * np.pi)).astype(rank.dtype)[None]
    turns = (rank >= Nc + winding).astype(dtype) - (rank < winding).astype(dtype)
    angles, rank = angles + 2 * np.pi * turns, (rank - winding) % Nc
    index = jnp.arange(Nc).reshape(Nc, 1, *[1] * (angles.ndim - 1))
    order = (rank[None] == index).astype(dtype)
    sorted_angles = (order * angles[None]).sum(1)
    floor = resolution(dtype)
    gaps = jnp.maximum(sorted_angles[:-1] - sorted_angles[1:], floor)
    rest = jnp.cumsum(gaps[::-1], axis=0)[::-1]
    spread = jnp.minimum(rest[0] / (2 * np.pi), 1 - floor)
    return Cell(jnp.concatenate([gaps[:-1] / rest[:-1], spread[None]]), order)


def gaps_of(box: Any, xp: Any = jnp) -> Any:
    """g_1 .. g_{N-1}, with arrays of the module `xp`."""
    rest, out = 2 * np.pi * box[-1], []
    for s in box[:-1]:
        out.append(rest * s)
        rest = rest * (1 - s)
    return xp.stack([*out, rest])


def angles_of(box: Box) -> Float[Array, "Nc ..."]:
    """The angles in descending order, sum 0."""
    gaps = gaps_of(box)
    Nc = gaps.shape[0] + 1
    # theta_i = sum_k [k >= i] g_k - sum_k (k / N) g_k
    table = np.triu(np.ones((Nc, Nc - 1))) - np.arange(1, Nc) / Nc
    return (jnp.asarray(table, box.dtype).reshape(Nc, Nc - 1, *[1] * (box.ndim - 1)) * gaps[None]).sum(1)


def log_haar(box: Any, xp: Any = jnp) -> Any:
    """log H, up to a constant, with arrays of the module `xp`."""
    gaps, last = gaps_of(box, xp), box.shape[0] - 1
    total = last * xp.log(box[-1])
    for k in range(last - 1):
        total = total + (last - 1 - k) * xp.log1p(-box[k])
    for i, j in itertools.combinations(range(last + 2), 2):
        total = total + 2 * xp.log(xp.sin(gaps[i:j].sum(0) / 2))
    return total


class Quantiles(NamedTuple):
    """The cumulative distribution F of one box coordinate under Haar measure: `root` = F^(1/power) at equidistant points of
    [0, 1]; the root is nearly linear near 0, where F itself vanishes with that power."""

    power: int
    root: np.ndarray


@functools.lru_cache(maxsize=16)
def haar_quantiles(Nc: int, points: int = 16) -> tuple[Quantiles, ...]:
    """One table per box coordinate, by averaging H over the others (quasi-random points). They only decide where zero
    parameters of a spline put its knots, so their accuracy does not matter for exactness."""
    others = scipy.stats.qmc.Halton(Nc - 1, scramble=False).random(2049)[1:].T  # (N-1, 2048)
    fine = (np.arange(points * 16) + 0.5) / (points * 16)
    out = []
    for k in range(Nc - 1):
        box = np.repeat(others[:, None], fine.size, axis=1)
        box[k] = fine[:, None]
        density = np.exp(log_haar(box, np)).mean(-1)
        cumulative = np.concatenate([[0], np.cumsum(density)]) / density.sum()
        # s_k -> 0 is one gap closing, r -> 0 all of them
        power = Nc**2 - 1 if k == Nc - 2 else 3
        out.append(Quantiles(power, cumulative[::16] ** (1 / power)))
    return tuple(out)


def bin_masses(table: Quantiles, bins: int) -> np.ndarray:
    """Probabilities of `bins` equal bins, normalised."""
    points = np.linspace(0, 1, table.root.size)
    cumulative = np.interp(np.linspace(0, 1, bins + 1), points, table.root) ** table.power
    return np.diff(cumulative) / cumulative[-1]


def quantile(table: Quantiles, probability: Float[Array, "..."]) -> Float[Array, "..."]:
    """F^-1, linear in the root between the points of the table."""
    tiny = float(jnp.finfo(probability.dtype).tiny) ** 0.5
    root = jnp.clip(probability, tiny, 1) ** (1 / table.power)
    shape = (-1,) + (1,) * probability.ndim
    low = jnp.asarray(table.root[:-1], root.dtype).reshape(shape)
    width = jnp.asarray(np.diff(table.root), root.dtype).reshape(shape)
    return jnp.clip((root[None] - low) / width, 0, 1).sum(0) / (table.root.size - 1)
