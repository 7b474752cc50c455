"""Sums of U(1) Wilson loops that are eigenfunctions of the Laplacian: what a continuous flow takes its gradient of.

A U(1) loop with angle Phi = sum_l n_l theta_l obeys sum_l d^2/dtheta_l^2 cos Phi = -(sum_l n_l^2) cos Phi. Two plaquettes that
share a link combine to a rectangle or a chair (the link cancels, 6 links of charge 1) or to their twisted versions (the link is
counted twice, 6 + 4); three plaquettes at one link follow the same rule. These are the loops of the first orders of a
trivialising map (M. Luescher, 0907.5491, Sec. 4) and of those by which Wilson actions renormalise.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from latflow.groups import U1
from latflow.lattice import Geometry, shift
from latflow.loops import plaquette

_PLANAR = {"plaquette": 4, "double": 16, "triple": 36, "rectangle": 6, "twisted_rectangle": 10, "two_to_one": 16}
_BENT = {"chair": 6, "twisted_chair": 10, "three": 10}  # these need two planes through a link


@dataclasses.dataclass(frozen=True)
class U1LoopTerms:
    """Sums over the whole lattice of cos(loop), in the order of `names`.

    With a_k the 2(Nd-1) plaquettes through a link, all oriented along it: `rectangle` and `chair` sum cos(a_k - a_l) over pairs
    in one plane and in two, `twisted_*` of cos(a_k + a_l), `three` of cos(a_k + a_l - a_m), `two_to_one` of
    cos(2 a_k - a_m), indices distinct; `double` and `triple` are cos 2P and cos 3P.

    Raises ValueError for extents below 3, where links of a loop coincide and the eigenvalues change.
    """

    geometry: Geometry

    def __post_init__(self) -> None:
        if self.geometry.Nd < 2 or min(self.geometry.shape) < 3:
            raise ValueError(
                "the loops of a continuous flow need two or more dimensions with extents of at least 3, "
                f"got {self.geometry.shape}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        return (*self._charges(),)

    def _charges(self) -> dict[str, int]:
        return _PLANAR | (_BENT if self.geometry.Nd > 2 else {})

    @property
    def eigenvalues(self) -> np.ndarray:
        """lambda with Laplacian = -lambda times the term."""
        return np.array([*self._charges().values()], float)

    @property
    def scales(self) -> np.ndarray:
        """Units of the coefficients: all but the plaquette, which is of leading order, move the links about equally."""
        n = 2 * (self.geometry.Nd - 1)
        per_link = {"rectangle": n / 2, "chair": n * (n - 2) / 2, "three": n * (n - 1) * (n - 2) / 2, "two_to_one": n * (n - 1)}
        count = [max(per_link.get(name.removeprefix("twisted_"), 1.0), 1.0) for name in self.names]
        higher = np.where(np.array(self.names) == "plaquette", 1.0, 0.2)
        return higher * 4 / (self.eigenvalues * np.sqrt(count))

    def __call__(self, theta: Float[Array, "Nd ..."]) -> Float[Array, " terms"]:
        group, geometry, Nd = U1(), self.geometry, self.geometry.Nd
        loops = {}
        for mu, nu in geometry.planes:
            loops[mu, nu] = group.embed(plaquette(group, geometry, theta, mu, nu))
            loops[nu, mu] = jnp.conj(loops[mu, nu])
        p = jnp.stack([loops[plane] for plane in geometry.planes])
        squares = p * p
        out = dict.fromkeys(self.names, jnp.zeros((), theta.dtype))
        out |= {"plaquette": _real_sum(p), "double": _real_sum(squares), "triple": _real_sum(squares * p)}
        n = 2 * (Nd - 1)
        for mu in range(Nd):
            others = [nu for nu in range(Nd) if nu != mu]
            up = jnp.stack([loops[mu, nu] for nu in others])
            down = jnp.stack([shift(loops[nu, mu], nu, Nd, -1) for nu in others])
            pairs = up + down
            s, s2 = pairs.sum(0), (up * up + down * down).sum(0)
            found = {
                "rectangle": _real_sum(up * jnp.conj(down)),
                "twisted_rectangle": _real_sum(up * down),
                "two_to_one": _real_sum(s2 * jnp.conj(s) - s),
            }
            if Nd > 2:
                found["chair"] = (_real_sum(s * jnp.conj(s)) - _real_sum(pairs * jnp.conj(pairs))) / 2
                found["three"] = _real_sum((s * s - s2) * jnp.conj(s) - 2 * (n - 1) * s) / 2
                found["twisted_chair"] = (_real_sum(s * s) - _real_sum(pairs * pairs)) / 2
            out |= {name: out[name] + value for name, value in found.items()}
        return jnp.stack([out[name] for name in self.names])


def _real_sum(z: Array) -> Float[Array, ""]:
    return jnp.sum(jnp.real(z))
