"""Independent exact samples of two-dimensional SU(2) and SU(3) gauge theory on the torus."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from latflow.exact.boltzmann import Surroundings, boltzmann_matrix, surroundings
from latflow.exact.rejection import rejection
from latflow.exact.sun_2d import TorusSUN, character_series
from latflow.groups import SUN
from latflow.lattice import Geometry
from latflow.loops import plaquette
from latflow.precision import double_sum, working_dtype

Links = Complex[Array, "Nc Nc 2 L0 L1"]
Matrices = Complex[Array, "Nc Nc ..."]

_GRID = 360  # points per eigenangle on which envelopes are fitted
_FLAT = 1e-14  # a density this close to constant is constant


class TorusSUNSampler(eqx.Module):
    """The normalised density exp(beta/Nc sum_x Re Tr P(x)) / Z on links, Nc = 2 or 3, with independent draws at O(V) cost.

    Fix the gauge: U_0 = 1 but on the last time slice, U_1 = 1 in the first row of time slices but for its last link B,
    and h the
    first U_0 of the last slice. The remaining links are products of plaquettes, each moved to the origin, and Haar measure of
    the links is that of all plaquettes but one, h and B. The plaquettes, column by column, multiply to h B h^dagger B^dagger.
    With K_n(H) = sum_r d_r (c_r/c_0)^n chi_r(H), the density of a product of n free plaquettes,

    * h and B have density K_V(h B h^dagger B^dagger): drawn from Haar measure, accepted with probability K_V / K_V(1);
    * n plaquettes with product C are halved: the product H of the first m has density K_m(H) K_{n-m}(H^dagger C), and so
      on down to
      single plaquettes. Each K_n lies below A_n exp(g_n Re Tr(H - 1)) with g_n chosen for the smallest A_n (K_1 is such an
      exponential itself), so H is drawn from exp(Re Tr H (g_m + g_{n-m} C^dagger)) by `boltzmann_matrix` and accepted
      with the ratio.

    `acceptance` reports how often. Under `vmap` the attempts of all draws share one pool (see `rejection`), so a draw
    depends on the keys of all. A uniform gauge transformation ends the draw. Everything is computed in double precision
    (where JAX has it), rounded to `dtype` at the end.

    Raises ValueError unless the lattice is two-dimensional, Nc is 2 or 3, and beta is finite and >= 0.
    """

    geometry: Geometry = eqx.field(static=True)
    group: SUN = eqx.field(static=True)
    beta: float = eqx.field(static=True)
    dtype: np.dtype = eqx.field(static=True)
    log_z: float = eqx.field(static=True)

    def __init__(self, geometry: Geometry, group: SUN, beta: float, dtype=jnp.complex128):
        if group.Nc > 3:
            raise ValueError(f"the independent sampler draws SU(2) and SU(3) plaquettes, not SU({group.Nc}); use the heatbath")
        self.log_z = TorusSUN(geometry, group, float(beta)).log_z()
        self.geometry, self.group, self.beta = geometry, group, float(beta)
        self.dtype = jax.dtypes.canonicalize_dtype(jnp.result_type(dtype, jnp.complex64))

    def sample(self, key: PRNGKeyArray) -> Links:
        """One configuration, shape (Nc, Nc, 2, L0, L1), independent of all others."""
        return self._draw(key)[0]

    def log_density(self, links: Links) -> Float[Array, ""]:
        """log of the density with respect to normalised Haar measure, in the working dtype."""
        # beta V and log Z nearly cancel, so they are combined before the field comes in
        P = plaquette(self.group, self.geometry, links, 0, 1)
        deficit = double_sum(self.group.Nc - self.group.re_trace(P))
        free = self.beta * self.geometry.volume - self.log_z
        return free - self.beta / self.group.Nc * deficit

    def sample_and_log_density(self, key: PRNGKeyArray) -> tuple[Links, Float[Array, ""]]:
        links = self.sample(key)
        return links, self.log_density(links)

    def acceptance(self, key: PRNGKeyArray, draws: int = 256) -> dict[int, float]:
        """{n: the fraction of halvings of n plaquettes that are accepted}, and under 0 that of the holonomies, over `draws`."""
        counts = jax.jit(jax.vmap(lambda k: self._draw(k)[1]))(jax.random.split(key, draws))
        return {n: float(jnp.sum(a) / jnp.sum(b)) for n, (a, b) in counts.items()}

    def _draw(self, key: PRNGKeyArray) -> tuple[Links, dict[int, tuple[Array, Array]]]:
        holonomy_key, plaquette_key, gauge_key = jax.random.split(key, 3)
        h, B, tried = self._holonomies(holonomy_key)
        group = self.group
        counts = {0: (jnp.ones_like(tried), tried)}
        segments = group.multiply(group.multiply(h, B), group.adjoint(group.multiply(B, h)))[:, :, None]
        lengths = [self.geometry.volume]
        level = 0
        while max(lengths) > 1:
            longest = max(lengths)
            segments, lengths, accepted, tried = self._halve(jax.random.fold_in(plaquette_key, level), segments, lengths)
            counts[longest] = (accepted, tried)
            level += 1
        links = self._links(gauge_key, segments, h, B)
        return group.reunitarise(links)[0].astype(self.dtype), counts

    def _holonomies(self, key: PRNGKeyArray) -> tuple[Matrices, Matrices, Array]:
        group, K = self.group, class_density(self.group.Nc, self.beta, self.geometry.volume)
        dtype = jnp.result_type(working_dtype(), jnp.complex64)

        def again(state):
            key, _, _, tried = state
            key, draw, choice = jax.random.split(key, 3)
            pair = group.haar(draw, (2,), dtype)
            h, B = pair[:, :, 0], pair[:, :, 1]
            C = group.multiply(group.multiply(h, B), group.adjoint(group.multiply(B, h)))
            good = jax.random.uniform(choice, (), working_dtype()) * K.at_identity < K(C[:, :, None])[0]
            return key, pair, good, tried + 1

        start = (key, group.identity((2,), dtype), jnp.zeros((), bool), jnp.zeros((), jnp.int32))
        _, pair, _, tried = jax.lax.while_loop(lambda state: ~state[2], again, start)
        return pair[:, :, 0], pair[:, :, 1], tried

    def _halve(self, key: PRNGKeyArray, C: Matrices, lengths: list[int]):
        """Products of the first halves of all segments longer than one plaquette, and what remains of them."""
        group = self.group
        split = [i for i, n in enumerate(lengths) if n > 1]
        halves = [(-(-lengths[i] // 2), lengths[i] // 2) for i in split]
        first = jnp.zeros((group.Nc, group.Nc, len(split)), C.dtype)
        accepted = tried = jnp.zeros((), jnp.int32)
        for count, pair in enumerate(sorted(set(halves))):
            at = np.array([k for k, found in enumerate(halves) if found == pair])
            whole = C[:, :, np.array(split)[at]]
            H, a, b = self._first_part(jax.random.fold_in(key, count), whole, *pair)
            first = first.at[:, :, at].set(H)
            accepted, tried = accepted + a, tried + b
        pieces, new, k = [], [], 0
        for i, n in enumerate(lengths):
            if n == 1:
                pieces.append(C[:, :, i])
                new.append(1)
                continue
            H = first[:, :, k]
            pieces += [H, group.multiply(group.adjoint(H), C[:, :, i])]
            new += halves[k]
            k += 1
        if len(split) == len(lengths):  # the usual case, without taking the array apart
            rest = group.multiply(group.adjoint(first), C)
            return jnp.stack([first, rest], axis=3).reshape(group.Nc, group.Nc, -1), new, accepted, tried
        return jnp.stack(pieces, axis=2), new, accepted, tried

    def _first_part(self, key: PRNGKeyArray, C: Matrices, m: int, n: int):
        """H with density K_m(H) K_n(H^dagger C), how many, and in how many attempts."""
        group, size = self.group, C.shape[2]
        K_m, K_n = (class_density(group.Nc, self.beta, k) for k in (m, n))
        if K_m.flat and K_n.flat:
            total = jnp.asarray(size, jnp.int32)
            return group.haar(key, (size,), C.dtype), total, total

        def attempt(key: PRNGKeyArray, given: tuple[Surroundings, Matrices]):
            around, C = given
            draw, choice = jax.random.split(key)
            H, log_keep = boltzmann_matrix(draw, around)
            rest = group.multiply(group.adjoint(H), C)
            ratio = jnp.exp(log_keep) * K_m.below_envelope(H) * K_n.below_envelope(rest)
            return H, jax.random.uniform(choice, ratio.shape, ratio.dtype) < ratio

        H, attempts = rejection(attempt, key, (surroundings(K_m.slope, K_n.slope, C), C), jnp.zeros_like(C))
        return H, jnp.asarray(size, jnp.int32), jnp.sum(attempts, dtype=jnp.int32)

    def _links(self, key: PRNGKeyArray, segments: Matrices, h: Matrices, B: Matrices) -> Links:
        """Links from the V plaquettes in order: columns one after the other, each from its last time slice to its first.

        U_1(x0 + 1, x1) = P(x0, x1) U_1(x0, x1), and U_0 of the last slice follows h(x1 + 1) = U_1(0, x1)^dagger
        T(x1)^dagger h(x1) U_1(0, x1), T(x1) the product of column x1.
        """
        group, (L0, L1) = self.group, self.geometry.shape
        P = segments.reshape(group.Nc, group.Nc, L1, L0)[..., ::-1]  # columns, times ascending
        start = group.identity((L1,), P.dtype).at[:, :, L1 - 1].set(B)

        def up(u: Matrices, p: Matrices):
            return group.multiply(p, u), u

        top, u1 = jax.lax.scan(up, start, jnp.moveaxis(P, 3, 0))
        total = group.multiply(top, group.adjoint(start))

        def along(h: Matrices, T: Matrices):
            return group.multiply(group.adjoint(T), h), h

        last = jax.lax.scan(along, h, jnp.moveaxis(total, 2, 0))[1]
        u0 = group.identity((L0, L1), P.dtype).at[:, :, L0 - 1].set(jnp.moveaxis(last, 0, 2))
        omega = group.haar(key, (L0, L1), P.dtype)
        links = [
            group.multiply(group.multiply(omega, u), group.adjoint(jnp.roll(omega, -1, axis)))
            for axis, u in ((2, u0), (3, jnp.moveaxis(u1, 0, 2)))
        ]
        return jnp.stack(links, axis=2)


@dataclasses.dataclass(frozen=True)
class ClassDensity:
    """K_n(H) = sum_r weight_r chi_r(H), and an envelope of it, A exp(slope Re Tr(H - 1)) with log A = `log_bound`;
    `exact` if they
    agree."""

    rows: np.ndarray
    weights: Float[np.ndarray, " representations"]
    slope: float
    log_bound: float
    exact: bool

    @property
    def at_identity(self) -> float:
        Nc = self.rows.shape[1]
        return float(np.sum(self.weights * _characters(self.rows, np.array(Nc, complex))))

    @property
    def flat(self) -> bool:
        return self.at_identity - 1 < _FLAT

    def __call__(self, H: Matrices) -> Float[Array, "..."]:
        trace = sum((H[i, i] for i in range(1, H.shape[0])), H[0, 0])
        weights = jnp.asarray(self.weights, H.real.dtype).reshape(-1, *[1] * trace.ndim)
        return (weights * _characters(self.rows, trace, jnp)).sum(0)

    def below_envelope(self, H: Matrices) -> Float[Array, "..."]:
        """K_n / envelope, at most one."""
        trace = sum((H[i, i].real for i in range(1, H.shape[0])), H[0, 0].real)
        if self.exact:
            return jnp.ones_like(trace)
        return jnp.maximum(self(H), 0) * jnp.exp(-self.log_bound - self.slope * (trace - H.shape[0]))


def _characters(rows: np.ndarray, trace: Any, xp: Any = np) -> Any:
    """Real parts of the characters of SU(2) or SU(3), shape (representations, ...), of elements with this (complex) trace.

    The complete homogeneous polynomials of the eigenvalues obey h_k = t h_{k-1} - t* h_{k-2} + h_{k-3} for SU(3) and
    h_k = t h_{k-1} - h_{k-2} for SU(2), and chi = h_a for rows (a, 0), h_a h_b - h_{a+1} h_{b-1} for rows (a, b, 0)
    (Jacobi and Trudi). No eigenvalue is needed, and none may coincide.
    """
    Nc = rows.shape[1]
    h = [xp.zeros_like(trace), xp.zeros_like(trace), xp.ones_like(trace)]  # h_-2, h_-1, h_0
    for _ in range(int(rows.max()) + 1):
        last = h[-3] if Nc == 3 else 0
        second = xp.conj(trace) * h[-2] if Nc == 3 else h[-2]
        h.append(trace * h[-1] - second + last)
    table = xp.stack(h)
    if Nc == 2:
        return table[rows[:, 0] + 2].real
    a, b = rows[:, 0] + 2, rows[:, 1] + 2
    return (table[a] * table[b] - table[a + 1] * table[b - 1]).real


@functools.lru_cache(maxsize=256)
def class_density(Nc: int, beta: float, n: int) -> ClassDensity:
    """K_n with its envelope of the smallest A, found on a fine grid of the torus of eigenvalues."""
    series = character_series(Nc, beta, n)
    weights = series.dimension * np.exp(n * series.log_ratio)
    keep = weights * series.dimension > 1e-17
    rows, weights = series.rows[keep], weights[keep]
    if n == 1:
        log_bound = beta - series.log_trivial  # exp(beta/Nc Re Tr H) / c_0
        return ClassDensity(rows, weights, beta / Nc, log_bound, True)
    points = 2 * np.pi * np.arange(0, _GRID) / _GRID
    angles = points[None, : _GRID // 2 + 1] if Nc == 2 else np.stack(np.meshgrid(points, points)).reshape(2, -1)
    traces = (2 * np.cos(angles[0])).astype(complex) if Nc == 2 else np.exp(1j * angles).sum(0) + np.exp(-1j * angles.sum(0))
    log_density = np.log(np.maximum((weights[:, None] * _characters(rows, traces)).sum(0), 1e-300))
    deficit = Nc - traces.real

    def cost(slope: float) -> float:
        """log of the mean number of attempts for a free draw under this envelope."""
        single = character_series(Nc, Nc * slope, 1)
        return float(np.max(log_density + slope * deficit)) + single.log_trivial - Nc * slope

    found = scipy.optimize.minimize_scalar(cost, bounds=(1e-3 * beta / n, 1.5 * beta / n), method="bounded")
    slope = float(found.x)
    # the maximum between grid points exceeds the one on them by less than this (checked in the tests)
    return ClassDensity(rows, weights, slope, float(np.max(log_density + slope * deficit)) + 2e-3, False)
