"""Smeared links, for loops with less noise from short distances."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from latflow.groups import AbstractGroup
from latflow.lattice import Geometry, component
from latflow.loops import staples

Links = Inexact[Array, "..."]


@dataclasses.dataclass(frozen=True)
class Smearing:
    """`steps` times, every link (or, with `spatial`, every one but those along direction 0, by spatial staples only) becomes

    * "ape": the projection on the group of (1 - alpha) U + alpha / n sum of its n staples (M. Albanese et al., Phys. Lett. B192
      (1987) 163; the projection is `group.project`);
    * "stout": exp(alpha Z) U with Z the velocity of the gradient flow, Eqs. (1-3) of hep-lat/0311018 for rho = alpha: with all
      directions, one step of the gradient flow by Euler's rule.

    Raises ValueError for alpha outside of (0, 1) for "ape", alpha <= 0 for "stout", and fewer than one step.
    """

    kind: Literal["ape", "stout"]
    alpha: float
    steps: int
    spatial: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("ape", "stout"):
            raise ValueError(f'smearing is "ape" or "stout", not {self.kind!r}')
        if not self.alpha > 0 or (self.kind == "ape" and not self.alpha < 1) or self.steps < 1:
            raise ValueError(
                f"{self.kind} smearing needs a positive alpha{' below 1' if self.kind == 'ape' else ''} and at least one step, "
                f"got alpha={self.alpha}, steps={self.steps}"
            )

    def __call__(self, group: AbstractGroup, geometry: Geometry, links: Links) -> Links:
        """Links of the same shape and dtype. Raises ValueError where there are no staples."""
        directions = range(1 if self.spatial else 0, geometry.Nd)
        if len(directions) < 2:
            raise ValueError(f"links of {len(directions)} direction(s) have no staples to smear with")
        return jax.lax.fori_loop(0, self.steps, lambda _, u: self._once(group, geometry, u, directions), links)

    def _once(self, group: AbstractGroup, geometry: Geometry, links: Links, directions: range) -> Links:
        axis, Nd = len(group.colour_shape), geometry.Nd
        new = [component(links, mu, Nd) for mu in range(Nd)]
        for mu in directions:
            u = new[mu]
            own = list(staples(group, geometry, links, mu))
            others = [nu for nu in range(Nd) if nu != mu]
            used = [s for k, nu in enumerate(others) if nu in directions for s in own[2 * k : 2 * k + 2]]
            A = sum((group.embed(s) for s in used[1:]), group.embed(used[0]))
            if self.kind == "stout":
                w = group.multiply(u, A) if group.colour_shape else group.embed(u) * A
                new[mu] = group.move((2 if group.colour_shape else 1) * self.alpha * group.trace_gradient(w), u)
            else:  # staples lead from the end of the link to its start
                back = jnp.conj(jnp.swapaxes(A, 0, 1)) if group.colour_shape else jnp.conj(A)
                new[mu] = group.project((1 - self.alpha) * group.embed(u) + self.alpha / len(used) * back)
        return jnp.stack(new, axis)
