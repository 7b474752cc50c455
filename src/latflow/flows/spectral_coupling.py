"""The spectral coupling layer for SU(N): the eigenangles of a loop are transformed, the link through it follows.

With frozen staples S_k of an active link U (2502.00263, Eqs. 12-14; 2008.05456, Sec. III)

    M = Proj(sum_k alpha_k S_k),   P = U M = V exp(i theta) V^dagger,   P' = V exp(i theta') V^dagger,   U' = P' P^dagger U,

and theta' is a monotone map of the canonical cell (`weyl_cell`) whose parameters see everything the layer leaves alone: frozen
loops, and also V through the numbers b_k = (V^dagger M^dagger S_k V)_ii, in which the energy is sum_ki cos(theta_i + arg
b_ki) |b_ki|.

M must not jump as frozen links vary, or else pathwise gradients would be biased. One alpha is 1, the others sum to less than
sin(pi/Nc) in absolute value. Then S_main^dagger sum_k alpha_k S_k has its numerical range in a disk around 1 of that radius, is
never singular, and each eigenvalue of it has an argument below pi/Nc, so that the argument of the determinant stays within pi
and the principal root taken by Proj is continuous.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int, PRNGKeyArray

from latflow.flows.base import AbstractBijection
from latflow.flows.link_coupling import FarContext, move_active, one_axis
from latflow.flows.spline import Knots, spline_forward, spline_inverse, tilted_knots
from latflow.flows.staple_view import BlockStaples, PlaquetteStaples, invariants, num_invariants
from latflow.flows.weyl_cell import angles_of, bin_masses, haar_quantiles, log_haar, quantile, to_cell
from latflow.groups.spectral import recompose, spectrum
from latflow.nets import PointwiseNet

Links = Complex[Array, "Nc Nc Nd ..."]


class SpectralCoupling(AbstractBijection):
    """One layer on links `(Nc, Nc, Nd, *lattice)`; `phase` as for `U1Coupling`, `main` the staple whose alpha is 1.

    `couplings` are trained numbers kappa_k with which exp(sum_k kappa_k Re Tr U S_k), the heatbath density, tilts the density
    of the spread; networks add the rest. They are stored in units in which an optimiser finds them fast.
    """

    view: PlaquetteStaples | BlockStaples = eqx.field(static=True)
    bins: int = eqx.field(static=True)
    main: int = eqx.field(static=True)
    context: FarContext
    heads: tuple[PointwiseNet, ...]
    weights: Float[Array, " staples"]
    couplings: Float[Array, " staples"]
    phase: Int[Array, ""] | None

    def __init__(
        self,
        view: PlaquetteStaples | BlockStaples,
        *,
        key: PRNGKeyArray,
        main: int = 0,
        phase: int | None = None,
        bins: int = 12,
        conv: tuple[int, ...] = (16,),
        hidden: tuple[int, ...] = (32,),
        kernel_size: int = 3,
        dtype=jnp.float32,
    ):
        self.view, self.bins, self.main = view, bins, main
        Nc, n = view.group.Nc, view.num_staples
        keys = jax.random.split(key, Nc)
        self.context = FarContext(view.far_channels, view.mask.geometry.Nd, conv, kernel_size, key=keys[0], dtype=dtype)
        channels = self.context.channels + num_invariants(view.group, n) + 2 * Nc * n + Nc - 2
        self.heads = tuple(PointwiseNet(channels, hidden, 2 * bins + 1, key=k, dtype=dtype) for k in keys[1:])
        self.weights = jnp.full((n,), 1.0, dtype)
        self.couplings = jnp.zeros((n,), dtype)
        self.phase = None if phase is None else jnp.asarray(phase, jnp.int32)

    def _centre(self, staples: Complex[Array, "Nc Nc n ..."]) -> Complex[Array, "Nc Nc ..."]:
        group = self.view.group
        others = jnp.asarray(np.arange(self.view.num_staples) != self.main, self.weights.dtype) * self.weights
        radius = 0.99 * np.sin(np.pi / group.Nc)
        alpha = radius * others / (1 + jnp.sum(jnp.abs(others)))
        alpha = alpha.at[self.main].set(1).reshape(-1, *[1] * (staples.ndim - 3))
        return group.project((staples * alpha[None, None].astype(staples.dtype)).sum(2))

    def _knots(self, k: int, box: Float[Array, "..."], features: list[Any], energies: tuple[Any, Any]) -> Knots:
        """Of coordinate k, given the others."""
        others = jnp.concatenate([box[:k], box[k + 1 :]])
        raw = self.heads[k](jnp.concatenate([*features, 2 * others - 1]))
        tilt = raw[: self.bins]
        if k == box.shape[0] - 1:
            # the angles are proportional to the spread, here at the centres of the bins
            unit = angles_of(jnp.concatenate([box[:-1], jnp.ones_like(box[-1:])]))
            centre = jnp.asarray((np.arange(self.bins) + 0.5) / self.bins, box.dtype)
            theta = centre.reshape(-1, *[1] * unit.ndim) * unit[None]
            tilt = tilt + (jnp.cos(theta) * energies[0][None] - jnp.sin(theta) * energies[1][None]).sum(1)
        table = haar_quantiles(self.view.group.Nc)[k]
        return tilted_knots(tilt, raw[self.bins :], bin_masses(table, self.bins), lambda u: quantile(table, u))

    def _transform(self, links: Links, active: Complex[Array, "Nc Nc ..."], inverse: bool):
        group, mask = self.view.group, self.view.mask
        seen = self.view(links)
        staples = one_axis(mask, seen.staples)
        M = self._centre(staples)
        relative = group.multiply(group.adjoint(M)[:, :, None], staples)  # M^dagger S_k
        theta, V = spectrum(group.multiply(active, M))
        cell = to_cell(theta)
        # (V^dagger B_k V)_ii in the order of the cell
        b = (jnp.conj(V)[:, :, None] * (relative[:, :, None] * V[None, :, :, None]).sum(1)).sum(0)
        b_re, b_im = ((cell.order[:, :, None] * part[None]).sum(1) for part in (b.real, b.imag))
        flat = (-1, *b_re.shape[2:])
        features = [
            *self.context(mask, seen.far),
            invariants(group, relative),
            b_re.reshape(flat),
            b_im.reshape(flat),
        ]
        kappa = (10 * self.couplings).reshape(1, -1, *[1] * (b_re.ndim - 2))
        energies = ((kappa * b_re).sum(1), (kappa * b_im).sum(1))
        box, log_det = cell.box, -log_haar(cell.box)
        steps = range(box.shape[0])
        for k in reversed(steps) if inverse else steps:
            move = spline_inverse if inverse else spline_forward
            value, log_slope = move(box[k], self._knots(k, box, features, energies))
            box = jnp.concatenate([box[:k], value[None], box[k + 1 :]])
            log_det = log_det + log_slope
        log_det = log_det + log_haar(box)
        change = (cell.order * (angles_of(box) - angles_of(cell.box))[:, None]).sum(0)
        return group.multiply(recompose(V, change), active), log_det

    def forward_and_log_det(self, x: Links, context: Any = None) -> tuple[Links, Float[Array, ""]]:
        return move_active(self.view.mask, self.phase, x, lambda links, u: self._transform(links, u, False))

    def inverse_and_log_det(self, y: Links, context: Any = None) -> tuple[Links, Float[Array, ""]]:
        return move_active(self.view.mask, self.phase, y, lambda links, u: self._transform(links, u, True))
