"""Sweeps of residual steps for SU(N): every link follows the same few loops, mask by mask, whatever the lattice.

One sweep is one finite step of a generalised gradient flow, U' = exp(i X) U with X the gradient of Re Tr U S and

    S = sum_r c_r sum_nu S_nu(V^(r)),

the staples of links that were smeared r times around the active ones (2305.02402; 2401.10874). The coefficients c_r belong to
all directions, sites and masks, so that there are 2 `rounds` + 1 parameters per sweep, and a model of one volume serves others.
To first order in the c_r the order of the masks does not matter.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Int

from latflow.flows.compose import AbstractComposite
from latflow.flows.residual_coupling import ResidualCoupling
from latflow.flows.staple_view import ConvolutedStaples
from latflow.groups import SUN
from latflow.lattice import AbstractMask, Geometry, diagonal, stripes

Links = Complex[Array, "Nc Nc Nd ..."]


class ResidualSweep(AbstractComposite):
    """All masks of all directions once. `strengths` (rounds + 1,) and `log_eta` (rounds,) are those of the `ResidualCoupling`
    that every mask shares; an untrained sweep is the identity."""

    masks: tuple[AbstractMask, ...] = eqx.field(static=True)
    group: SUN = eqx.field(static=True)
    limit: float = eqx.field(static=True)
    strengths: Float[Array, " rounds+1"]
    log_eta: Float[Array, " rounds"]

    def __init__(
        self,
        geometry: Geometry,
        group: SUN,
        *,
        rounds: int = 2,
        width: int = 4,
        limit: float = 0.8,
        eta: float = 0.2,
        dtype=jnp.float32,
    ):
        """Raises ValueError as `ResidualCoupling`, and for extents that `width` does not divide."""
        cut = stripes if geometry.Nd == 2 else diagonal
        self.masks = tuple(cut(geometry, mu, width) for mu in range(geometry.Nd))
        self.group, self.limit = group, limit
        self.strengths = jnp.zeros((rounds + 1,), dtype)
        view = ConvolutedStaples(self.masks[0], group, rounds)
        first = ResidualCoupling(view, key=jax.random.key(0), limit=limit, eta=eta, isotropic=True, hidden=None, dtype=dtype)
        assert first.log_eta is not None
        self.log_eta = first.log_eta

    def _step(self, mask: AbstractMask, phase: Int[Array, ""]) -> ResidualCoupling:
        view = ConvolutedStaples(mask, self.group, self.log_eta.size)
        bare = ResidualCoupling(
            view, key=jax.random.key(0), phase=0, limit=self.limit, isotropic=True, hidden=None, dtype=self.strengths.dtype
        )
        return eqx.tree_at(lambda s: (s.strengths, s.log_eta, s.phase), bare, (self.strengths, self.log_eta, phase))

    def _run(self, x: Links, total: Float[Array, "..."], context: Any, method: str, reverse: bool) -> Any:
        for mask in reversed(self.masks) if reverse else self.masks:

            def one(carry: tuple[Links, Float[Array, "..."]], phase: Int[Array, ""], mask: AbstractMask = mask):
                links, total = carry
                links, log_det = getattr(self._step(mask, phase), method)(links)
                return (links, total + log_det), None

            # smearing is quick to repeat, and its intermediate links would fill the memory
            phases = jnp.arange(mask.num_phases, dtype=jnp.int32)
            (x, total), _ = jax.lax.scan(jax.checkpoint(one), (x, total), phases, reverse=reverse)
        return x, total
