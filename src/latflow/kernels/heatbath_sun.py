"""Heatbath and overrelaxation of SU(N) links in two to four dimensions, subgroup by subgroup.

The plaquettes around a link sum to Re Tr W, W = U A with A the sum of its staples. Multiply U from the left by an element r of
one of the N(N-1)/2 SU(2) subgroups that mix two colours i < j (Cabibbo and Marinari, Phys. Lett. B 119 (1982) 387). Only that
part of the 2 x 2 block of W that is a real multiple k q of an SU(2) matrix q contributes,

    Re Tr(r W) = Re tr(r k q) + constant = 2 k s_0 + constant,   s = r q = s_0 + i s.sigma,

so s has density exp(alpha s_0), alpha = 2 beta k / N, with respect to Haar measure: s_0 = 1 - y has density
sqrt(y (2 - y)) exp(-alpha y), the direction of the vector s is uniform. Then r = s q^dagger.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Int, PRNGKeyArray

from latflow.actions import AbstractAction, WilsonGauge
from latflow.actions.base import coupling
from latflow.exact.boltzmann import Quaternion, boltzmann_quaternion
from latflow.groups import SUN
from latflow.kernels.base import AbstractKernel, Info, State
from latflow.kernels.checkerboard import pack, unpack
from latflow.kernels.sweep import require_wilson, sweep, swept
from latflow.lattice import component
from latflow.loops import staples

Matrices = Complex[Array, "Nc Nc ..."]


class HeatbathSUN(AbstractKernel):
    """One sweep over all links, directions, parities and SU(2) subgroups, each drawn from its exact conditional distribution
    (Kennedy and Pendleton, Phys. Lett. B 156 (1985) 393). For N = 2 links become independent of their old values.

    Links are pulled back onto the group after every sweep. Raises ValueError unless `action` is an SU(N) Wilson action on a
    lattice of even extents.
    """

    action: WilsonGauge

    def __init__(self, action: AbstractAction):
        self.action = require_wilson(action, SUN, "SU(N)", "heatbath")

    def init(self, field: Matrices) -> State:
        return State(field, self.action(field))

    def step(self, key: PRNGKeyArray, state: State) -> tuple[State, Info]:
        scale = 2 * coupling(self.action.beta, state.field) / self.action.group.Nc

        def draw(key: PRNGKeyArray, k: Float[Array, "..."], q: Quaternion) -> Quaternion:
            # a negative coupling favours -q
            alpha, sign = jnp.abs(scale) * k, jnp.where(scale < 0, -1, 1)
            return _multiply(boltzmann_quaternion(key, alpha), _conjugate(_times(sign, q)))

        return _subgroup_sweep(self.action, key, state, draw)


class OverrelaxationSUN(AbstractKernel):
    """One sweep that reflects every link in every SU(2) subgroup, r = (q^dagger)^2: the action does not change.

    Deterministic and microcanonical, hence not ergodic: combine it with a heatbath in `Composite`. Raises ValueError as the
    heatbath does.
    """

    action: WilsonGauge

    def __init__(self, action: AbstractAction):
        self.action = require_wilson(action, SUN, "SU(N)", "overrelaxation")

    def init(self, field: Matrices) -> State:
        return State(field, self.action(field))

    def step(self, key: PRNGKeyArray, state: State) -> tuple[State, Info]:
        def reflect(key: PRNGKeyArray, k: Float[Array, "..."], q: Quaternion) -> Quaternion:
            back = _conjugate(q)
            return _multiply(back, back)

        return _subgroup_sweep(self.action, key, state, reflect)


def _subgroup_sweep(action: WilsonGauge, key: PRNGKeyArray, state: State, rotation) -> tuple[State, Info]:
    group, geometry = action.group, action.geometry

    def update(key: PRNGKeyArray, links: Matrices, mu: int, parity: Int[Array, ""]) -> Matrices:
        old = component(links, mu, geometry.Nd)
        # packed before anything is multiplied or drawn, so that nothing is computed for the links that stay
        a = sum((pack(geometry, staple, parity) for staple in staples(group, geometry, links, mu)), jnp.zeros((), old.dtype))
        u = pack(geometry, old, parity)
        w = group.multiply(u, a)
        pairs = [(i, j) for j in range(group.Nc) for i in range(j)]
        for (i, j), pair_key in zip(pairs, jax.random.split(key, len(pairs)), strict=True):
            r = rotation(pair_key, *_quaternion_part(w, i, j))
            u, w = _rotate_rows(r, u, i, j), _rotate_rows(r, w, i, j)
        return unpack(geometry, u, old, parity)

    links = sweep(action, key, state.field, update)
    return swept(action, group.reunitarise(links)[0], state)


def _quaternion_part(w: Matrices, i: int, j: int) -> tuple[Float[Array, "..."], Quaternion]:
    """(k, q) with k q the projection of the 2 x 2 block (i, j) of w on real multiples of SU(2); q = 1 where k = 0."""
    parts = (
        jnp.real(w[i, i] + w[j, j]) / 2,
        jnp.imag(w[i, j] + w[j, i]) / 2,
        jnp.real(w[i, j] - w[j, i]) / 2,
        jnp.imag(w[i, i] - w[j, j]) / 2,
    )
    k = jnp.sqrt(sum((x * x for x in parts[1:]), parts[0] * parts[0]))
    safe = jnp.where(k > 0, k, 1)
    return k, (jnp.where(k > 0, parts[0] / safe, 1), parts[1] / safe, parts[2] / safe, parts[3] / safe)


def _rotate_rows(r: Quaternion, m: Matrices, i: int, j: int) -> Matrices:
    """r m, r acting on rows i and j."""
    a, b = jax.lax.complex(r[0], r[3])[None], jax.lax.complex(r[2], r[1])[None]
    rows = list(m)
    rows[i], rows[j] = a * m[i] + b * m[j], jnp.conj(a) * m[j] - jnp.conj(b) * m[i]
    return jnp.stack(rows)


def _multiply(a: Quaternion, b: Quaternion) -> Quaternion:
    """(a_0 + i a.sigma)(b_0 + i b.sigma)."""
    return (
        a[0] * b[0] - a[1] * b[1] - a[2] * b[2] - a[3] * b[3],
        a[0] * b[1] + b[0] * a[1] - (a[2] * b[3] - a[3] * b[2]),
        a[0] * b[2] + b[0] * a[2] - (a[3] * b[1] - a[1] * b[3]),
        a[0] * b[3] + b[0] * a[3] - (a[1] * b[2] - a[2] * b[1]),
    )


def _conjugate(q: Quaternion) -> Quaternion:
    return q[0], -q[1], -q[2], -q[3]


def _times(factor: Array, q: Quaternion) -> Quaternion:
    return factor * q[0], factor * q[1], factor * q[2], factor * q[3]
