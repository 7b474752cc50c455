"""SU(N) gauge theory on the two-dimensional torus in closed form."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import numpy as np
import scipy.special
from jaxtyping import Float

from latflow.exact.sums import log_sum
from latflow.groups import SUN
from latflow.lattice import Geometry


@dataclasses.dataclass(frozen=True)
class TorusSUN:
    """Wilson's action S = -(beta/Nc) sum_x Re Tr P(x) on a periodic L0 x L1 lattice of V plaquettes.

    With the character expansion exp(beta/Nc Re Tr P) = sum_r d_r c_r chi_r(P) over the irreducible representations r, and Haar
    measure normalised to 1, gluing V plaquettes to a torus (Euler characteristic 0) gives (A. A. Migdal, Sov. Phys. JETP 42
    (1975) 413; B. E. Rusakov, Mod. Phys. Lett. A 5 (1990) 693)
        Z = sum_r c_r^V,    <W(A)> = (1 / Nc Z) sum_{r, s} (d_s / d_r) N_{s f}^r c_s^A c_r^(V-A),
    where N_{s f}^r = 1 if r arises from s by adding one box to its Young diagram, and, for rows r_1 >= ... >= r_Nc = 0,
        d_r c_r = sum_k det_{ij} I_{r_j - j + i + k}(beta/Nc).
    All results are float64 in lattice units.

    Raises ValueError unless the lattice is two-dimensional and beta is finite and >= 0.
    """

    geometry: Geometry
    group: SUN
    beta: float

    def __post_init__(self) -> None:
        if self.geometry.Nd != 2:
            raise ValueError(
                "SU(N) gauge theory is solved in closed form in two dimensions only, not on the "
                f"{self.geometry.Nd}-dimensional lattice {self.geometry.shape}"
            )
        if not (math.isfinite(self.beta) and self.beta >= 0):
            raise ValueError(f"the closed forms need a finite beta >= 0, got {self.beta}")

    def log_z(self) -> float:
        """log Z with respect to normalised Haar measure."""
        V, series = self.geometry.volume, self._series()
        return V * series.log_trivial + log_sum(V * series.log_ratio)

    def plaquette(self) -> float:
        """<Re Tr P> / Nc."""
        return self.wilson_loop(1)

    def action_density(self) -> float:
        """<S> / V = -beta <Re Tr P> / Nc."""
        return -self.beta * self.plaquette()

    def wilson_loop(self, area: int) -> float:
        """<Re Tr W> / Nc of a contractible loop that encloses `area` <= V plaquettes.

        Raises ValueError for an area that does not fit.
        """
        V, series = self.geometry.volume, self._series()
        if not 0 <= area <= V:
            raise ValueError(f"a loop of area {area} does not fit on a lattice of {V} plaquettes")
        r, s = series.products
        d, log_ratio = series.dimension, series.log_ratio
        log_z = log_sum(V * log_ratio)
        inside = 0.0 if area == 0 else area * log_ratio[s]
        outside = 0.0 if area == V else (V - area) * log_ratio[r]
        return float(np.sum(d[s] / d[r] * np.exp(inside + outside - log_z))) / self.group.Nc

    def _series(self) -> CharacterSeries:
        return character_series(self.group.Nc, float(self.beta), self.geometry.volume)


@dataclasses.dataclass(frozen=True)
class CharacterSeries:
    """Representations by their Young rows `(n, Nc)` (the last row is 0), their dimensions d_r, log(c_r / c_0), log c_0 of the
    trivial one, and `products`, pairs (r, s) of indices with r contained in s times the fundamental representation."""

    rows: np.ndarray
    dimension: Float[np.ndarray, " n"]
    log_ratio: Float[np.ndarray, " n"]
    log_trivial: float
    products: tuple[np.ndarray, np.ndarray]


@functools.lru_cache(maxsize=64)
def character_series(Nc: int, beta: float, power: int) -> CharacterSeries:
    """The expansion of exp(beta/Nc Re Tr P), cut off where (c_r / c_0)^power, summed over a shell of representations with the
    same first row, adds less than 1e-18 (and at rows beyond which the coefficients are lost to rounding)."""
    rows = [(0,) * Nc]
    found = [_coefficients(np.array(rows), beta)]
    log_trivial = math.log(found[0][0]) + beta
    for first in itertools.count(1):
        inner = itertools.combinations_with_replacement(range(first, -1, -1), Nc - 2)
        shell = [(first, *rest, 0) for rest in inner]
        c = _coefficients(np.array(shell), beta)
        rows, found = rows + shell, [*found, c]
        share = np.sum((np.maximum(c, 0) / found[0][0]) ** power)
        if share * first**Nc < 1e-18 or first > 200:
            break
    table, c = np.array(rows), np.concatenate(found) / found[0][0]
    d = _dimension(table)
    with np.errstate(divide="ignore"):
        # what is left of a coefficient below the rounding of the determinants is noise, of either sign
        log_ratio = np.log(np.where(c * d > 1e-15, c, 0))
    return CharacterSeries(table, d, log_ratio, log_trivial, _fundamental_products(rows))


def _coefficients(rows: np.ndarray, beta: float) -> Float[np.ndarray, " n"]:
    """c_r exp(-beta)."""
    Nc, x = rows.shape[1], beta / rows.shape[1]
    i, j = np.indices((Nc, Nc))
    charges = np.arange(-(40 + 10 * math.ceil(math.sqrt(x))) - rows.max(), 41 + 10 * math.ceil(math.sqrt(x)))
    order = rows[:, None, None, :] - j + i + charges[None, :, None, None]
    return np.sum(np.linalg.det(scipy.special.ive(np.abs(order), x)), axis=1) / _dimension(rows)


def _dimension(rows: np.ndarray) -> Float[np.ndarray, " n"]:
    """Weyl's formula: prod_{i<j} (r_i - r_j + j - i) / (j - i)."""
    Nc, d = rows.shape[1], np.ones(len(rows))
    for i, j in itertools.combinations(range(Nc), 2):
        d = d * (rows[:, i] - rows[:, j] + j - i) / (j - i)
    return d


def _fundamental_products(rows: list[tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
    index = {row: n for n, row in enumerate(rows)}
    pairs = []
    for s, row in enumerate(rows):
        for k in range(len(row)):
            grown = [x + (i == k) for i, x in enumerate(row)]
            product = tuple(x - grown[-1] for x in grown)  # a full column is trivial for SU(N)
            if (k == 0 or row[k] < row[k - 1]) and product in index:
                pairs.append((index[product], s))
    r, s = np.array(pairs, int).reshape(-1, 2).T
    return r, s
