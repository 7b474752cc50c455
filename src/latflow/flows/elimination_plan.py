"""Which couplings an incomplete elimination keeps, and in which order sites are eliminated: integers, worked out once.

A coupling from the site x + d to the site x is kept in slot s of row x, where d is the s-th displacement of the torus. Every
row has the same slots, the site itself in slot 0, and one more that stays empty: what points to a dropped coupling points
there.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal, get_args

import numpy as np
from jaxtyping import Int

from latflow.lattice import Geometry, Halves

Order = Literal["nested", "pairs", "natural"]
Reach = int | tuple[int, ...] | None
Sites = Geometry | Halves
Table = Int[np.ndarray, "..."]


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Sites are counted as spinors store them; V sites, w slots (without the empty one)."""

    extents: tuple[int, ...]
    steps: Table
    """(w, Nd): the displacements, each coordinate in [0, extent)."""
    order: Table
    """(V,): the sites in the order in which they are eliminated."""
    site: Table
    """(V, w): the site in a slot of a row."""
    time: Table
    """(V, w + 1): when the site in a slot of a row is eliminated, counted from 0; -1 where the coupling is not kept."""
    opposite: Table
    """(w,): the slot of the displacement back."""
    difference: Table
    """(w, w + 1): [s, t] is the slot of d_t - d_s, where the site in slot t of row x stands in the row of that in slot s; w if
    there is none."""
    common: Table
    """(w, c): the slots t of a row which the row of the site in its slot s may have too, filled up with w. For s = 0 none: no
    row is subtracted from itself."""
    place: Table
    """(w, w + 1): [s, t] is where t stands in `common[s]`; c if nowhere."""
    earlier: Table
    """(V, w): the slots of sites eliminated before that of the row, earliest first, filled up with w."""
    later: Table
    """(V, w): the slots of sites eliminated after that of the row, filled up with w."""

    @property
    def volume(self) -> int:
        """V."""
        return len(self.order)

    @property
    def width(self) -> int:
        """w."""
        return len(self.steps)

    @property
    def work(self) -> int:
        """How many products of blocks the decomposition needs."""
        used = self.earlier < self.width
        rows, slots = np.nonzero(used)
        s = self.earlier[rows, slots]
        k, since = self.site[rows, s], self.time[rows, s]
        mine = self.time[rows] > since[:, None]
        return int(np.sum(mine & (np.take_along_axis(self.time[k], self.difference[s], 1) >= 0)))

    def slot(self, step: tuple[int, ...]) -> int | None:
        """The slot of a displacement, None if it has none."""
        found = np.flatnonzero((self.steps == np.mod(step, self.extents)).all(1))
        return int(found[0]) if len(found) else None


@functools.cache
def plan(sites: Sites, reach: Reach, order: str) -> Plan:
    """The plan for all sites of a geometry, or for the even ones.

    Sites are eliminated class by class. "natural": one class. "pairs": the sites of even x_0, then those of odd x_0.
    "nested": a hierarchy of ever coarser lattices. Of the even sites those with all of x even and x_0 / 2 + x_1 / 2 + ...
    even, one in 2^Nd, come last; the others before them, in 2^Nd - 1 classes by x modulo 2 and by floor(x_0 / 2) +
    floor(x_1 / 2) + ... modulo 2, so that sites two steps apart are in different classes. Those which come last are the
    even sites of a lattice of half the extents, and the same is repeated among them while these are even. Of all sites, the
    odd ones come before. Within a class: in the order of the coordinates, the last one fastest.

    The coupling of two sites is kept if their Manhattan distance on the torus is at most `reach`, or, with one reach per class
    (the last one also of all that follow), that of the class which is eliminated first; None keeps all of them.

    Raises ValueError for a negative reach, for no reach, or an unknown order.
    """
    reaches = reach if isinstance(reach, tuple) else (reach,)
    if not reaches or any(r is not None and (isinstance(r, bool) or r < 0) for r in reaches):
        raise ValueError(f"the reach must be a distance >= 0, one per class, or None for a complete elimination, got {reach}")
    if order not in get_args(Order):
        raise ValueError(f"unknown order of elimination {order!r}; choose from {get_args(Order)}")
    extents, x = _coordinates(sites)
    V = len(x)
    group = classes(x, extents, order)
    elimination = np.lexsort([*x.T[::-1], group])
    rank = np.argsort(elimination)
    length = np.minimum(x, np.array(extents) - x).sum(1)  # x are displacements, too: of the first site
    limit = np.array([length.max() if r is None else r for r in reaches])[np.minimum(group, len(reaches) - 1)]
    near = np.argsort(length, kind="stable")[: np.count_nonzero(length <= limit.max())]
    site = _indices(x, extents)(x[:, None] + x[near][None])
    kept = length[near][None] <= np.where(rank[site] < rank[:, None], limit[site], limit[:, None])
    used = kept.any(0)
    steps, site, kept = x[near][used], site[:, used], kept[:, used]
    w, slot_of = len(steps), _indices(steps, extents)
    difference = np.concatenate([slot_of(steps[None] - steps[:, None]), np.full((w, 1), w)], 1)
    common = _left_aligned(_shared(site, kept, difference), w)
    common = common[:, : max(1, int((common < w).sum(1).max()))]
    place = np.full((w, w + 2), common.shape[1])
    np.put_along_axis(place, np.where(common < w, common, w + 1), np.arange(common.shape[1])[None], 1)
    time = np.where(kept, rank[site], -1)
    before, after = kept & (time < rank[:, None]), time > rank[:, None]
    ascending = np.argsort(np.where(before, time, V), axis=1, kind="stable")
    earlier = np.where(np.arange(w)[None] < before.sum(1)[:, None], ascending, w)
    time = np.concatenate([time, np.full((V, 1), -1)], 1)
    tables = (steps, elimination, site, time, slot_of(-steps), difference, common, place[:, :-1], earlier)
    tables = (*tables, _left_aligned(after, w))
    return Plan(tuple(extents), *(table.astype(np.int32) for table in tables))


def classes(x: Table, extents: tuple[int, ...], order: str) -> Table:
    """(V,): the class of the sites at x (V, Nd), which are all of a lattice or its even ones."""
    if order == "natural":
        return np.zeros(len(x), int)
    if order == "pairs":
        return x[:, 0] % 2
    odd = x.sum(1) % 2 == 1
    out, rest, y, shape = np.where(odd, 0, int(odd.any())), ~odd, x, np.array(extents)
    while rest.sum() > 1 and not (shape % 2).any():
        kind = (np.concatenate([y % 2, (y // 2).sum(1, keepdims=True) % 2], 1) @ (1 << np.arange(y.shape[1], -1, -1))).astype(
            int
        )
        found = np.unique(kind[rest])[::-1]  # 0, the coarse lattice, last
        out[rest] += np.searchsorted(-found, -kind[rest])
        rest &= kind == 0
        y, shape = y // 2, shape // 2
    return out


def _coordinates(sites: Sites) -> tuple[tuple[int, ...], Table]:
    """(extents, coordinates (V, Nd))."""
    geometry = sites.geometry if isinstance(sites, Halves) else sites
    x = sites.coordinates(0) if isinstance(sites, Halves) else sites.coordinates()
    return geometry.shape, x.reshape(geometry.Nd, -1).T


def _indices(points: Table, extents: tuple[int, ...]):
    """The function that finds points (..., Nd) of the torus in a list; those which are not there get its length."""
    where = np.full(extents, len(points))
    where[tuple(points.T)] = np.arange(len(points))
    return lambda x: where[tuple(np.moveaxis(x % np.array(extents), -1, 0))]


def _shared(site: Table, kept: np.ndarray, difference: Table) -> np.ndarray:
    """(w, w): whether, for some row which keeps slots s and t, that of the site in slot s keeps the site in slot t."""
    padded = np.concatenate([kept, np.zeros((len(kept), 1), bool)], 1)
    out = [(kept[:, s, None] & kept & padded[site[:, s]][:, difference[s, :-1]]).any(0) for s in range(len(difference))]
    out[0] = np.zeros_like(out[0])
    return np.stack(out)


def _left_aligned(mask: np.ndarray, fill: int) -> Table:
    """The columns where a row of the mask holds, filled up to the number of columns."""
    columns = np.where(mask, np.arange(mask.shape[1])[None], fill)
    return np.sort(columns, 1)
