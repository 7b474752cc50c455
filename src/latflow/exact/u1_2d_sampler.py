"""Independent exact samples of two-dimensional U(1) gauge theory on the torus."""

from __future__ import annotations

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from latflow.exact.u1_2d import TorusU1
from latflow.exact.von_mises import fixed_von_mises
from latflow.groups import U1, wrap
from latflow.lattice import Geometry
from latflow.loops import plaquette
from latflow.precision import double_sum, working_dtype

Links = Float[Array, "2 L0 L1"]


class _Attempt(NamedTuple):
    key: PRNGKeyArray
    plaquettes: Float[Array, "L0 L1"]
    accepted: Bool[Array, ""]


class TorusU1Sampler(eqx.Module):
    """The normalised density exp(beta sum_x cos P(x)) / Z on links, with independent draws at O(V) cost, all sectors included.

    The V plaquettes are independent von Mises angles but for sum P = 0 mod 2 pi; gauge and the two holonomies are uniform.
    To meet the constraint exactly, draw V free von Mises angles with sum S and sum exp(i P) = R exp(i psi), and turn all of
    them by one common angle. Of the orbit {P + alpha}, the V points alpha_k = (2 pi k - S)/V obey the constraint. The free
    draw visits the orbit with weight int dalpha/2pi exp(beta R cos(psi + alpha)) = I_0(beta R), the target gives it
    sum_k exp(beta R cos x_k) with x_k = psi + alpha_k. So: accept the orbit with probability r / M,
        r = sum_k exp(beta R cos x_k) / (V I_0(beta R)) = 1 + 2 sum_{j>0} I_{jV}(beta R) / I_0(beta R) cos(j V x_0),
    where M is r at R = V, x_0 = 0, its maximum; then choose k with probability proportional to exp(beta R cos x_k). More than
    80% of the orbits are accepted on every lattice, and all of them once V >> beta, where M - 1 is about 2 exp(-V / 2 beta).

    All angles are summed in float64 (where JAX has it) and rounded to `dtype` at the end, link by link, so that the
    plaquettes of a float32 configuration carry four roundings and no accumulated error.

    beta and the geometry are static: another coupling is another object. Raises ValueError unless the lattice is
    two-dimensional and beta is finite and >= 0.
    """

    geometry: Geometry = eqx.field(static=True)
    beta: float = eqx.field(static=True)
    dtype: np.dtype = eqx.field(static=True)
    log_z: float = eqx.field(static=True)
    group: U1 = eqx.field(default=U1(), init=False)

    def __init__(self, geometry: Geometry, beta: float, dtype=jnp.float64):
        self.geometry = geometry
        self.beta = float(beta)
        self.dtype = jax.dtypes.canonicalize_dtype(dtype)
        self.log_z = TorusU1(geometry, self.beta).log_z()

    @property
    def acceptance(self) -> float:
        """The fraction of orbits that is accepted, <r> / M with <r> = sum_m (I_m / I_0)^V."""
        V = self.geometry.volume
        log_free = V * (math.log(scipy.special.ive(0, self.beta)) + self.beta)
        return math.exp(self.log_z - log_free) / (1 + _bound_excess(V, self.beta))

    def sample(self, key: PRNGKeyArray) -> Links:
        """One configuration of angles in [-pi, pi], shape (2, L0, L1), independent of every other key's."""
        plaquette_key, link_key = jax.random.split(key)
        links = self._links(link_key, self._plaquettes(plaquette_key))
        return wrap(links).astype(self.dtype)

    def log_density(self, theta: Links) -> Float[Array, ""]:
        """log of the density with respect to normalised Haar measure: beta sum cos P - log Z, in the working dtype."""
        # beta V and log Z nearly cancel, so they are combined before the field comes in
        P = plaquette(self.group, self.geometry, theta, 0, 1)
        deficit = double_sum(jnp.sin(P / 2) ** 2)
        return self.beta * self.geometry.volume - self.log_z - 2 * self.beta * deficit

    def sample_and_log_density(self, key: PRNGKeyArray) -> tuple[Links, Float[Array, ""]]:
        theta = self.sample(key)
        return theta, self.log_density(theta)

    def _plaquettes(self, key: PRNGKeyArray) -> Float[Array, "L0 L1"]:
        """V angles with sum 0 mod 2 pi and density proportional to exp(beta sum cos P) under that constraint."""
        excess = _bound_excess(self.geometry.volume, self.beta)
        if excess < 1e-16:  # no attempt would ever be rejected
            return self._attempt(key, None).plaquettes
        first = _Attempt(key, jnp.zeros(self.geometry.shape, working_dtype()), jnp.zeros((), bool))

        def again(last: _Attempt) -> _Attempt:
            new = self._attempt(last.key, 1 + excess)
            return _Attempt(new.key, jnp.where(last.accepted, last.plaquettes, new.plaquettes), last.accepted | new.accepted)

        return jax.lax.while_loop(lambda attempt: ~attempt.accepted, again, first).plaquettes

    def _attempt(self, key: PRNGKeyArray, bound: float | None) -> _Attempt:
        V, dtype = self.geometry.volume, working_dtype()
        next_key, angle_key, choice_key = jax.random.split(key, 3)
        P = fixed_von_mises(angle_key, self.beta, self.geometry.shape)
        half = jnp.sin(P / 2)
        c, s = V - 2 * jnp.sum(half * half), jnp.sum(jnp.sin(P))
        kappa, psi, mean = self.beta * jnp.hypot(c, s), jnp.arctan2(s, c), jnp.sum(P) / V
        # the root nearest to the maximum of the target, and its neighbours counted from there
        spacing = 2 * math.pi / V
        nearest = jnp.round((mean - psi) / spacing)
        near = psi - mean + spacing * nearest
        j = (
            jnp.arange(V, dtype=dtype) - V // 2
            if (reach := self._reach()) is None
            else jnp.arange(-reach, reach + 1, dtype=dtype)
        )
        weight = jnp.exp(-2 * kappa * jnp.sin((near + spacing * j) / 2) ** 2)
        total = jnp.cumsum(weight)
        u = jax.random.uniform(choice_key, (2,), dtype)
        chosen = j[jnp.minimum(jnp.sum(total <= u[0] * total[-1]), j.size - 1)]
        alpha = spacing * (nearest + chosen) - mean
        accepted = jnp.ones((), bool)
        if bound is not None:
            accepted = u[1] * bound * V * jax.scipy.special.i0e(kappa) < total[-1]
        return _Attempt(next_key, P + alpha, accepted)

    def _reach(self) -> int | None:
        """How many roots on each side carry weight above e^-40, given R > R_min, which fails with probability below e^-40."""
        V = self.geometry.volume
        mean = V * float(scipy.special.ive(1, self.beta) / scipy.special.ive(0, self.beta))
        R_min = mean - math.sqrt(80 * V)  # Hoeffding: Pr(sum cos P < mean - t) <= exp(-t^2 / 2V)
        if self.beta * R_min <= 20:
            return None
        reach = math.ceil(V / math.pi * math.asin(math.sqrt(20 / (self.beta * R_min)))) + 1
        return reach if 2 * reach + 1 < V else None

    def _links(self, key: PRNGKeyArray, P: Float[Array, "L0 L1"]) -> Links:
        """Angles with these plaquettes: temporal gauge and uniform holonomies, then a uniform gauge transformation.

        With theta_0 = 0 but for the last time slice, theta_1(x0 + 1) = theta_1(x0) + P(x0), and theta_0(L0 - 1, x1) = h(x1)
        with h(x1 + 1) = h(x1) - sum_{x0} P(x0, x1), which closes because sum P = 0 mod 2 pi.
        """
        L0, L1 = self.geometry.shape
        gauge_key, holonomy_key = jax.random.split(key)
        h = jax.random.uniform(holonomy_key, (2,), P.dtype, 0, 2 * math.pi)
        rows = jnp.cumsum(P, axis=0)
        columns = wrap(rows[-1])
        theta1 = jnp.concatenate([jnp.zeros((1, L1), P.dtype), rows[:-1]], axis=0)
        theta1 = theta1 + jnp.where(jnp.arange(L1) == L1 - 1, h[1], jnp.zeros((), P.dtype))[None, :]
        last = h[0] - (jnp.cumsum(columns) - columns)
        theta0 = jnp.where((jnp.arange(L0) == L0 - 1)[:, None], last[None, :], jnp.zeros((), P.dtype))
        omega = jax.random.uniform(gauge_key, (L0, L1), self.dtype, 0, 2 * math.pi).astype(P.dtype)
        theta0 = theta0 + omega - jnp.roll(omega, -1, 0)
        theta1 = theta1 + omega - jnp.roll(omega, -1, 1)
        return jnp.stack([theta0, theta1])


def _bound_excess(V: int, beta: float) -> float:
    """M - 1 = 2 sum_{j>0} I_{jV}(beta V) / I_0(beta V)."""
    orders = V * np.arange(1, 2 + math.ceil(math.sqrt(90 * beta / V)))
    return float(2 * np.sum(scipy.special.ive(orders, beta * V)) / scipy.special.ive(0, beta * V))
