"""What a fermion determinant depends on in two dimensions, as a vector of gauge-invariant loop sums.

The logarithm of a determinant is a sum over closed paths, hence over Wilson loops and over loops that wind around the torus;
the lighter the fermion, the larger those that matter.
"""

from __future__ import annotations

import abc
import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact

from latflow.groups import SUN, U1, AbstractGroup, wrap
from latflow.lattice import Geometry, component, shift
from latflow.loops.loops import plaquette, polyakov_loop, transporter
from latflow.precision import double_sum, working_dtype

Links = Inexact[Array, "..."]


class AbstractFeatures(abc.ABC):
    """Functions of links, `(features,)` in float64, one name each. All are invariant under translations and gauge
    transformations."""

    @property
    @abc.abstractmethod
    def names(self) -> tuple[str, ...]:
        """In the order of the values."""

    @abc.abstractmethod
    def __call__(self, links: Links) -> Float[Array, " features"]:
        """The values on one configuration."""


@dataclasses.dataclass(frozen=True)
class TorusFeatures(AbstractFeatures):
    """Of U(1), sums over the lattice of cos(loop), and the topological charge:

    * `block_RxT`: rectangles of up to `reach` plaquettes on each side, R along time;
    * `sum_AxB`, `difference_AxB`: cos(P(x) +- P(x+r)), r = (A, +-B) up to `pairs` (what is not a block already);
    * `line_M`, `double_line_M`: loops that wind once or twice around direction M; `kink_M_W_K`: those that run W <= `kinks`
      lines further on K of their links; `strip_M_W`, `twin_M_W`: cos(W(x) -+ W(x+W)) of two of them; `cross_sum`,
      `cross_difference`: one around each direction;
    * `charge_N`: 1 where |Q| = N, the last of them where |Q| >= N.
    """

    geometry: Geometry
    reach: int = 8
    pairs: int = 4
    kinks: int = 3
    charges: int = 4

    def __post_init__(self) -> None:
        if self.geometry.Nd != 2:
            raise ValueError(f"the loops of a torus need two dimensions, got the lattice {self.geometry.shape}")

    @property
    def names(self) -> tuple[str, ...]:
        out = [f"block_{r}x{t}" for r, t in self._blocks()]
        for a, b in self._pairs():
            out += [f"sum_{a}x{b}"] if a + b != 1 else []
            out += [f"difference_{a}x{b}"] if a + b else []
        for mu in range(2):
            out += [f"line_{mu}", f"double_line_{mu}"]
            out += [f"kink_{mu}_{w}_{k}" for w in self._widths(mu) for k in range(1, self.geometry.shape[mu])]
            out += [f"{kind}_{mu}_{w}" for w in self._distances(mu) for kind in ("strip", "twin")]
        return (*out, "cross_sum", "cross_difference", *(f"charge_{n}" for n in range(1, self.charges + 1)))

    def _sides(self) -> tuple[int, int]:
        R, T = (min(self.reach, n - 1) for n in self.geometry.shape)
        return R, T

    def _blocks(self) -> list[tuple[int, int]]:
        R, T = self._sides()
        return [(r, t) for r in range(1, R + 1) for t in range(1, T + 1)]

    def _pairs(self) -> list[tuple[int, int]]:
        A, B = (min(self.pairs, n // 2) for n in self.geometry.shape)
        return [(a, b) for a in range(A + 1) for b in range(B + 1)]

    def _widths(self, mu: int) -> range:
        return range(1, min(self.kinks, self.geometry.shape[1 - mu] - 1) + 1)

    def _distances(self, mu: int) -> range:
        return range(1, self.geometry.shape[1 - mu] // 2 + 1)

    def __call__(self, links: Links) -> Float[Array, " features"]:
        group, theta = U1(), links
        angles = plaquette(group, self.geometry, theta, 0, 1)
        p = group.embed(angles)
        values, lines = [*self._block_sums(p), *self._pair_sums(p)], []
        for mu in range(2):
            lines.append(group.embed(jnp.sum(component(theta, mu, 2), axis=mu, keepdims=True)))
            values += self._winding_sums(p, lines[mu], mu)
        totals = [jnp.sum(line) for line in lines]  # every line of one direction crosses every one of the other
        values += [double_sum(jnp.real(totals[0] * totals[1])), double_sum(jnp.real(totals[0] * jnp.conj(totals[1])))]
        charge = jnp.abs(jnp.round(jnp.sum(wrap(angles)) / (2 * math.pi)))
        # the last counts all that are larger, so that no charge is without a number
        found = [charge == n for n in range(1, self.charges)] + [charge >= self.charges]
        values += [one.astype(working_dtype()) for one in found]
        return jnp.stack(values)

    def _block_sums(self, p: Complex[Array, "L0 L1"]) -> list[Array]:
        (R, T), out, column = self._sides(), [], None
        for r in range(R):
            column = p if column is None else column * shift(p, 0, 2, r)
            block = None
            for t in range(T):
                block = column if block is None else block * shift(column, 1, 2, t)
                out.append(_total(block))
        return out

    def _pair_sums(self, p: Complex[Array, "L0 L1"]) -> list[Array]:
        out = []
        for a, b in self._pairs():
            others = [shift(shift(p, 0, 2, a), 1, 2, s * b) for s in ((1, -1) if a and b else (1,))]
            partner = others[0] if len(others) == 1 else others[0] + others[1]
            if a + b != 1:
                out.append(_total(p * partner))
            if a + b:
                out.append(_total(p * jnp.conj(partner)))
        return out

    def _winding_sums(self, p: Complex[Array, "L0 L1"], line: Complex[Array, "..."], mu: int) -> list[Array]:
        out = [_total(line), _total(line * line)]
        # one line further the winding loop has the plaquettes between the two, which P counts from direction 0 to 1
        between = jnp.conj(p) if mu == 0 else p
        length, row = self.geometry.shape[mu], None
        for w in self._widths(mu):
            row = between if row is None else row * shift(between, 1 - mu, 2, w - 1)
            carried = jnp.broadcast_to(line, p.shape)
            for k in range(length - 1):
                carried = carried * shift(row, mu, 2, k)
                out.append(_total(carried))
        for w in self._distances(mu):
            other = shift(line, 1 - mu, 2, w)
            out += [_total(line * jnp.conj(other)), _total(line * other)]
        return out


@dataclasses.dataclass(frozen=True)
class MatrixFeatures(AbstractFeatures):
    """Of SU(N) in two or more dimensions, sums over the lattice of Re Tr / Nc: `loop_M_N_RxT`, the R x T loops up to `reach` in
    every plane; `adjoint_M_N_RxR`, |Tr|^2 / Nc^2 of the square ones; `line_M`, the loops that wind around direction M,
    `line2_M` their |Tr|^2 / Nc^2, and `lines_M`, |sum Tr|^2 / Nc^2."""

    geometry: Geometry
    group: SUN
    reach: int = 4

    @property
    def names(self) -> tuple[str, ...]:
        out: list[str] = []
        for mu, nu in self.geometry.planes:
            for r, t in self._sides(mu, nu):
                out += [f"loop_{mu}_{nu}_{r}x{t}"] + ([f"adjoint_{mu}_{nu}_{r}x{t}"] if r == t else [])
        return (*out, *(f"{kind}_{mu}" for mu in range(self.geometry.Nd) for kind in ("line", "line2", "lines")))

    def _sides(self, mu: int, nu: int) -> list[tuple[int, int]]:
        R, T = (min(self.reach, self.geometry.shape[d] - 1) for d in (mu, nu))
        return [(r, t) for r in range(1, R + 1) for t in range(1, T + 1)]

    def __call__(self, links: Links) -> Float[Array, " features"]:
        geometry, group, Nd, N = self.geometry, self.group, self.geometry.Nd, self.group.Nc
        values = []
        reaches = [min(self.reach, n - 1) for n in geometry.shape]
        straight = [{r: transporter(group, geometry, links, mu, r) for r in range(1, reaches[mu] + 1)} for mu in range(Nd)]
        for mu, nu in geometry.planes:
            for r, t in self._sides(mu, nu):
                u, v = straight[mu][r], straight[nu][t]
                there = group.multiply(u, shift(v, mu, Nd, r))
                loop = _trace(group.multiply(there, group.adjoint(group.multiply(v, shift(u, nu, Nd, t))))) / N
                values.append(_total(loop))
                if r == t:
                    values.append(_total(loop * jnp.conj(loop)))
        for mu in range(Nd):
            line = _trace(polyakov_loop(group, geometry, links, mu)) / N
            total = jnp.sum(line)
            values += [_total(line), _total(line * jnp.conj(line)), _total(total * jnp.conj(total))]
        return jnp.stack(values)


def features_of(group: AbstractGroup, geometry: Geometry) -> AbstractFeatures:
    """Those for links of `group`. Raises ValueError where there are none."""
    if isinstance(group, U1) and geometry.Nd == 2:
        return TorusFeatures(geometry)
    if isinstance(group, SUN):
        return MatrixFeatures(geometry, group)
    raise ValueError(f"no loop features are known for {group} on the lattice {geometry.shape}")


def _trace(a: Complex[Array, "Nc Nc ..."]) -> Complex[Array, "..."]:
    unit = jnp.asarray(np.eye(a.shape[0]), a.dtype).reshape(*a.shape[:2], *[1] * (a.ndim - 2))
    return (a * unit).sum(1).sum(0)


def _total(z: Complex[Array, "..."]) -> Float[Array, ""]:
    return double_sum(jnp.real(z))
