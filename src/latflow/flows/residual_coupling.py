"""The residual coupling layer for SU(N): active links follow the force of a sum of loops, one finite step at a time.

    U' = exp(i X) U,   X = G(U S),   S = sum_k c_k S_k  with frozen staples S_k,

G the gradient of Re Tr (2305.02402; with c_k the same number for the plaquette staples it is an Euler step of the
gradient flow of 1006.4518 on the active links).

Jacobian. Move U to exp(i y) U. To first order X changes by H y = G(i y U S), and the image moves, in algebra coordinates, by
    J = Ad(exp(iX)) (1 + Phi(X) H),    Phi(X) = (1 - exp(-A)) / A,    A = ad(iX),
so that log det J = log det(1 + Phi H), a matrix of N^2-1 rows per link.

Invertible. G halves the Frobenius norm at least (it keeps the Hermitian traceless part of -i w / 2), so |H| <= |S| / 2 <= sum_k
|c_k| / 2 for |S_k| <= 1, and |Phi| <= 1 because A is antisymmetric. With sum_k |c_k| <= 2 L, L < 1, hence |Phi H| <= L, J is
nowhere singular, and the layer is a covering of the simply connected SU(N) by itself: a bijection. The iteration
U <- exp(-i X(U)) U' contracts distances by L and finds the inverse. How log det J is computed: `residual_jacobian`.
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Int, PRNGKeyArray

from latflow.flows.base import AbstractBijection
from latflow.flows.link_coupling import FarContext, move_active, one_axis
from latflow.flows.residual_jacobian import log_det_jacobian, symmetric_jacobian
from latflow.flows.staple_view import BlockStaples, ConvolutedStaples, PlaquetteStaples, invariants, num_invariants
from latflow.groups.small_linear import inverse_and_log_det
from latflow.nets import PointwiseNet

Links = Complex[Array, "Nc Nc Nd ..."]
Matrices = Complex[Array, "Nc Nc ..."]

# A residual above this, in units of rounding, turns the log det into nan: the configuration is then not used but counted.
_ACCEPTED = 256


class ResidualCoupling(AbstractBijection):
    """One layer on links `(Nc, Nc, Nd, *lattice)`, `phase` as for `U1Coupling`. `strengths` are trained numbers, one per staple
    (`isotropic`: one per round of the view, common to all directions), from which, with what the network adds for each link,
    coefficients c_k with sum |c_k| <= 2 `limit` are made. `hidden=None`: no network."""

    view: PlaquetteStaples | ConvolutedStaples | BlockStaples = eqx.field(static=True)
    limit: float = eqx.field(static=True)
    isotropic: bool = eqx.field(static=True)
    context: FarContext
    head: PointwiseNet | None
    strengths: Float[Array, " staples"]
    log_eta: Float[Array, " rounds"] | None
    phase: Int[Array, ""] | None

    def __init__(
        self,
        view: PlaquetteStaples | ConvolutedStaples | BlockStaples,
        *,
        key: PRNGKeyArray,
        phase: int | None = None,
        limit: float = 0.8,
        eta: float = 0.2,
        isotropic: bool = False,
        conv: tuple[int, ...] = (16,),
        hidden: tuple[int, ...] | None = (32,),
        kernel_size: int = 3,
        dtype=jnp.float32,
    ):
        """`eta` is where the trained weights of the smearing start. Raises ValueError unless 0 < limit < 1 and eta > 0."""
        if not 0 < limit < 1:
            raise ValueError(f"a residual layer is a bijection for 0 < limit < 1, got limit = {limit}")
        if not eta > 0:
            raise ValueError(f"smearing needs a positive weight, got eta = {eta}")
        self.view, self.limit, self.isotropic = view, limit, isotropic
        n = self._rounds if isotropic else view.num_staples
        k0, k1 = jax.random.split(key)
        far = view.far_channels if hidden is not None else 0
        self.context = FarContext(far, view.mask.geometry.Nd, conv, kernel_size, key=k0, dtype=dtype)
        channels = self.context.channels + num_invariants(view.group, view.num_staples - 1)
        self.head = None if hidden is None else PointwiseNet(channels, hidden, n, key=k1, dtype=dtype)
        self.strengths = jnp.zeros((n,), dtype)
        smeared = isinstance(view, ConvolutedStaples)
        self.log_eta = jnp.full((view.rounds,), math.log(eta), dtype) if smeared else None
        self.phase = None if phase is None else jnp.asarray(phase, jnp.int32)

    @property
    def _rounds(self) -> int:
        return 1 + (self.view.rounds if isinstance(self.view, ConvolutedStaples) else 0)

    def _staple(self, links: Links) -> Matrices:
        """S of every active link."""
        view = self.view
        if isinstance(view, ConvolutedStaples):
            assert self.log_eta is not None
            seen = view(links, jnp.exp(self.log_eta))
        else:
            seen = view(links)
        S, n = one_axis(view.mask, seen.staples), view.num_staples
        raw = self.strengths.reshape(-1, *[1] * (S.ndim - 3))
        if self.head is not None:
            closed = view.group.multiply(view.group.adjoint(S[:, :, :1]), S[:, :, 1:])
            raw = raw + self.head(jnp.concatenate([*self.context(view.mask, seen.far), invariants(view.group, closed)]))
        if self.isotropic:
            raw = jnp.repeat(raw, n // self._rounds, axis=0)
        c = (2 * self.limit / math.sqrt(n)) * raw * jax.lax.rsqrt(1 + jnp.sum(raw * raw, axis=0, keepdims=True))
        return (S * c[None, None].astype(S.dtype)).sum(2)

    def _forward(self, links: Links, u: Matrices) -> tuple[Matrices, Float[Array, "..."]]:
        group = self.view.group
        w = group.multiply(u, self._staple(links))
        x = group.trace_gradient(w)
        return group.move(x, u), log_det_jacobian(group, w, x)

    def _inverse(self, links: Links, image: Matrices) -> tuple[Matrices, Float[Array, "..."]]:
        group, S = self.view.group, self._staple(links)

        def step(u: Matrices, target: Matrices, s: Matrices) -> Matrices:
            return group.move(-group.trace_gradient(group.multiply(u, s)), target)

        fixed_image, fixed_S = jax.lax.stop_gradient((image, S))
        eps = float(jnp.finfo(image.dtype).eps)
        most = math.ceil(math.log(eps / 8) / math.log(self.limit))

        def unfinished(state):
            count, _, change = state
            return (count < most) & (change > 4 * eps)

        def again(state):
            count, u, _ = state
            new = step(u, fixed_image, fixed_S)
            return count + 1, new, jnp.max(jnp.abs(new - u))

        start = (jnp.zeros((), jnp.int32), fixed_image, jnp.asarray(jnp.inf, image.real.dtype))
        u = jax.lax.while_loop(unfinished, again, start)[1]
        # One Newton step from the solution: it polishes, and it carries the derivatives of the inverse.
        u = jax.lax.stop_gradient(u)
        w = group.multiply(u, S)
        x = group.trace_gradient(w)
        miss = group.multiply(image, group.adjoint(group.move(x, u)))
        turn = group.exp(-jax.lax.stop_gradient(x))
        c = -2 * group.multiply(group.multiply(turn, group.trace_gradient(miss)), group.adjoint(turn))
        # (1 + Phi H) y = c
        M = jax.lax.stop_gradient(symmetric_jacobian(group, w, x)[0])
        Hc = group.coordinates(group.trace_gradient(1j * group.multiply(c, jax.lax.stop_gradient(w))))
        y = c - group.from_coordinates((inverse_and_log_det(M)[0] * Hc[None]).sum(1))
        u = group.move(y, u)
        w = group.multiply(u, S)
        x = group.trace_gradient(w)
        residual = jnp.max(jnp.abs(jax.lax.stop_gradient(group.move(x, u) - image)), axis=(0, 1))
        log_det = -log_det_jacobian(group, w, x)
        return u, jnp.where(residual < _ACCEPTED * eps, log_det, jnp.nan)

    def forward_and_log_det(self, x: Links, context: Any = None) -> tuple[Links, Float[Array, ""]]:
        return move_active(self.view.mask, self.phase, x, self._forward)

    def inverse_and_log_det(self, y: Links, context: Any = None) -> tuple[Links, Float[Array, ""]]:
        return move_active(self.view.mask, self.phase, y, self._inverse)
