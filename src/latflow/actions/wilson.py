"""The Wilson gauge action, Eq. (2) of 2207.08945 (K. G. Wilson, Phys. Rev. D 10, 2445)."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from latflow.actions.base import AbstractAction, Coupling, coupling
from latflow.groups import U1, AbstractGroup, RealLine
from latflow.lattice import Geometry, component, shift
from latflow.loops import plaquette, staple_sum
from latflow.precision import double_sum

Links = Inexact[Array, "..."]


class WilsonGauge(AbstractAction):
    """S = -(beta/Nc) sum_x sum_{mu<nu} Re Tr P_{mu nu}(x) for U(1) (Nc = 1) and SU(N), in two or more dimensions.

    `beta` may be a traced scalar (annealing, derivatives with respect to the coupling) and may be negative: the group is
    compact, so every real coupling defines a normalisable weight. Links `(*colour, Nd, *lattice)`.

    Force, in the convention dS(exp(i eps X) U)/d eps = <F, X>: with A_mu(x) the staple sum,
      SU(N): F_mu(x) = (beta / 4 Nc) [ -i(W - W^dagger) - trace part ],  W = U_mu(x) A_mu(x);
      U(1):  F_mu(x) = beta sum_{nu != mu} [ sin P_{mu nu}(x) - sin P_{mu nu}(x - nu) ].

    Raises ValueError for fewer than two dimensions or for a scalar field.
    """

    geometry: Geometry = eqx.field(static=True)
    group: AbstractGroup
    beta: Coupling

    def __check_init__(self) -> None:
        if self.geometry.Nd < 2:
            raise ValueError(f"the Wilson action needs at least two dimensions, got the lattice {self.geometry.shape}")
        if isinstance(self.group, RealLine):
            raise ValueError("the Wilson action needs links in a compact group, not a scalar field")

    def __call__(self, field: Links) -> Float[Array, ""]:
        planes = [
            double_sum(self.group.re_trace(plaquette(self.group, self.geometry, field, mu, nu)))
            for mu, nu in self.geometry.planes
        ]
        total = sum(planes[1:], planes[0])
        return self._prefactor(total) * total

    def value_and_force(self, field: Links) -> tuple[Float[Array, ""], Links]:
        if isinstance(self.group, U1):
            return self._abelian(field)
        group, Nd = self.group, self.geometry.Nd
        # stacked before use: otherwise the trace and the projection each recompute the staples
        w = jnp.stack(
            [group.multiply(component(field, mu, Nd), staple_sum(group, self.geometry, field, mu)) for mu in range(Nd)],
            axis=-Nd - 1,
        )
        total = double_sum(group.re_trace(w)) / 4  # each plaquette contains four links
        return self._prefactor(total) * total, self._prefactor(field) * group.trace_gradient(w)

    def _abelian(self, theta: Float[Array, "..."]) -> tuple[Float[Array, ""], Float[Array, "..."]]:
        Nd, planes = self.geometry.Nd, self.geometry.planes
        angles = jnp.stack([plaquette(self.group, self.geometry, theta, mu, nu) for mu, nu in planes])
        sines = jnp.sin(angles)
        forces = [jnp.zeros_like(sines[0]) for _ in range(Nd)]
        for (mu, nu), sine in zip(planes, sines, strict=True):
            forces[mu] = forces[mu] + sine - shift(sine, nu, Nd, -1)
            forces[nu] = forces[nu] - sine + shift(sine, mu, Nd, -1)
        total = double_sum(jnp.cos(angles))
        return self._prefactor(total) * total, -self._prefactor(theta) * jnp.stack(forces)

    def _prefactor(self, like: Array) -> Float[Array, ""]:
        return -coupling(self.beta, like) / self.group.Nc
