"""The gradient (Wilson) flow of gauge fields, M. Luescher, 1006.4518.

    dV/dt = Z(V) V,  V at t = 0 the links,  Z = -g_0^2 dS_W/dV,

in the normalisation in which a free mode of lattice momentum p^ decays as exp(-p^^2 t); t in lattice units. With our
Hermitian generators Z = i X, X = 2 G(U A) for SU(N), A the staple sum and G the gradient of Re Tr (for U(1), whose one
generator has length one, without the 2).

Integrated by the third-order scheme of App. C of 1006.4518,
    W_1 = exp(Z_0/4) W_0,  W_2 = exp(8 Z_1/9 - 17 Z_0/36) W_1,  W_3 = exp(3 Z_2/4 - 8 Z_1/9 + 17 Z_0/36) W_2,  Z_i = eps Z(W_i),
with steps of fixed size, or of one that keeps the distance to the embedded second-order result
    W' = exp(2 Z_1 - Z_0) W_0
below a tolerance (1301.4388, App. D).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Inexact, Int

from latflow.groups import AbstractGroup
from latflow.lattice import Geometry, component
from latflow.loops import field_strength, plaquette, staple_sum

Links = Inexact[Array, "..."]

_MAX_ATTEMPTS = 100_000  # per interval: a step that shrinks to nothing must end


class Flowed(NamedTuple):
    """`values`: what was measured, a leading axis over the times. `steps` integration steps were made in all. `converged` is
    false if the adaptive step size collapsed, then `values` are nan from there on."""

    links: Links
    values: Any
    steps: Int[Array, ""]
    converged: Bool[Array, ""]


def flow_velocity(group: AbstractGroup, geometry: Geometry, links: Links) -> Links:
    """X(V) with dV/dt = i X V, shape and dtype of `links`."""
    Nd, axis = geometry.Nd, len(group.colour_shape)
    slopes = []
    for mu in range(Nd):
        u = group.embed(component(links, mu, Nd))
        A = staple_sum(group, geometry, links, mu)
        slopes.append(group.trace_gradient(group.multiply(u, A) if group.colour_shape else u * A))
    return _generators(group) * jnp.stack(slopes, axis)


def flow_step(group: AbstractGroup, geometry: Geometry, links: Links, step: Any) -> tuple[Links, Float[Array, ""]]:
    """(links after one third-order step, largest Frobenius distance to the second-order result divided by Nc^2)."""
    z0 = step * flow_velocity(group, geometry, links)
    w = group.move(z0 / 4, links)
    z1 = step * flow_velocity(group, geometry, w)
    mixed = 8 / 9 * z1 - 17 / 36 * z0
    w = group.move(mixed, w)
    w = group.move(3 / 4 * step * flow_velocity(group, geometry, w) - mixed, w)
    miss = jnp.abs(group.embed(w) - group.embed(group.move(2 * z1 - z0, links)))
    colour = tuple(range(len(group.colour_shape)))
    return w, jnp.max(jnp.sqrt(jnp.sum(miss**2, axis=colour))) / group.Nc**2


def gradient_flow(
    group: AbstractGroup,
    geometry: Geometry,
    links: Links,
    times: Sequence[float],
    measure: Callable[[Links], Any] = lambda links: (),
    *,
    step: float = 0.02,
    tolerance: float | None = None,
) -> Flowed:
    """Flow `links` through the flow times `times` (increasing, from zero on) and `measure` at each.

    Every interval is cut into equal steps of at most `step`, or, given a `tolerance`, integrated adaptively beginning with
    `step`. The error of a link is of the order of step^3, or of the tolerance. May be jitted and vmapped.
    Raises ValueError for times that decrease or are negative and for steps that are not positive.
    """
    grid = np.asarray(times, float)
    if grid.ndim != 1 or len(grid) == 0 or not np.all(np.diff(grid, prepend=0.0) >= 0):
        raise ValueError(f"flow times must not be negative, nor decrease, got {list(times)}")
    if not step > 0 or (tolerance is not None and not tolerance > 0):
        raise ValueError(f"a gradient flow needs a positive step and tolerance, got step={step}, tolerance={tolerance}")
    real = jnp.finfo(links.dtype).dtype
    lengths = np.diff(grid, prepend=0.0)
    target = 0.0 if tolerance is None else tolerance

    def fixed(state, interval):
        length, count = interval
        links, steps, ok = state
        size = length / jnp.maximum(count, 1)
        links = jax.lax.fori_loop(0, count, lambda _, u: flow_step(group, geometry, u, size)[0], links)
        return (links, steps + count, ok), measure(links)

    def adaptive(state, interval):
        (links, steps, ok), size = state

        def unfinished(carry):
            left, _, _, _, attempts = carry
            return (left > 0) & (attempts < _MAX_ATTEMPTS)

        def attempt(carry):
            left, size, links, steps, attempts = carry
            now = jnp.minimum(size, left)
            new, distance = flow_step(group, geometry, links, now)
            good = distance <= target
            # 0.95: the safety factor of 1301.4388; a step cut short by the end of the interval says nothing about a longer one
            ideal = now * jnp.clip(0.95 * jnp.cbrt(target / jnp.maximum(distance, 1e-30)), 0.1, 4)
            size = jnp.where(good & (now < size), jnp.maximum(size, ideal), ideal)
            left = jnp.where(good, jnp.where(now < left, left - now, 0), left)
            return left, size, jnp.where(good, new, links), steps + good.astype(jnp.int32), attempts + 1

        start = (interval[0], size, links, steps, jnp.zeros((), jnp.int32))
        left, size, links, steps, _ = jax.lax.while_loop(unfinished, attempt, start)
        ok = ok & (left <= 0)
        values = jax.tree.map(lambda x: jnp.where(ok, x, jnp.nan), measure(links))
        return ((links, steps, ok), size), values

    begin = (links, jnp.zeros((), jnp.int32), jnp.ones((), bool))
    counts = jnp.asarray(np.ceil(lengths / step * (1 - 1e-12)), jnp.int32)
    intervals = (jnp.asarray(lengths, real), counts)
    if tolerance is None:
        (links, steps, ok), values = jax.lax.scan(fixed, begin, intervals)
    else:
        ((links, steps, ok), _), values = jax.lax.scan(adaptive, (begin, jnp.asarray(step, real)), intervals)
    return Flowed(links, values, steps, ok)


def energy_plaquette(group: AbstractGroup, geometry: Geometry, links: Links) -> Float[Array, ""]:
    """E = 2 sum_{mu < nu} Re tr(1 - P) averaged over sites (1006.4518, Eq. 3.1 ff.; without the 2 for U(1))."""
    Nc = group.Nc
    planes = [jnp.mean(Nc - group.re_trace(plaquette(group, geometry, links, mu, nu))) for mu, nu in geometry.planes]
    return _generators(group) * sum(planes[1:], planes[0])


def energy_clover(group: AbstractGroup, geometry: Geometry, links: Links) -> Float[Array, ""]:
    """E = F^a_{mu nu} F^a_{mu nu} / 4 averaged over sites, F of the clover."""
    planes = [jnp.mean(_square(group, field_strength(group, geometry, links, mu, nu))) for mu, nu in geometry.planes]
    return _generators(group) / 2 * sum(planes[1:], planes[0])


def topological_charge_clover(group: AbstractGroup, geometry: Geometry, links: Links) -> Float[Array, ""]:
    """Q = (1/32 pi^2) eps_{mu nu rho sigma} sum_x Tr F_{mu nu} F_{rho sigma} of four-dimensional SU(N) links, F Hermitian, of
    the clover. Near an integer on smooth fields only: flow them first. Raises ValueError in other dimensions."""
    if geometry.Nd != 4 or not group.colour_shape:
        raise ValueError(f"the clover charge is for SU(N) in four dimensions, not for {type(group).__name__} in {geometry.Nd}")
    F = {plane: field_strength(group, geometry, links, *plane) for plane in geometry.planes}

    def product(a: tuple[int, int], b: tuple[int, int]) -> Float[Array, ""]:
        return jnp.sum(jnp.real(F[a] * jnp.swapaxes(F[b], 0, 1)))

    # each of the three pairs of planes occurs eight times in the sum
    total = product((0, 1), (2, 3)) - product((0, 2), (1, 3)) + product((0, 3), (1, 2))
    return total / (4 * jnp.pi**2)


def crossing(times: Float[Array, " n"], values: Float[Array, " n"], level: float) -> Float[Array, ""]:
    """The time at which `values` first pass through `level` from below, linear between the points; nan if they do not.
    Differentiable in the values, so that errors can be propagated."""
    below = (values[:-1] < level) & (values[1:] >= level)
    i = jnp.argmax(below)
    rise = jnp.where(below[i], values[i + 1] - values[i], 1)
    t = times[i] + (level - values[i]) / rise * (times[i + 1] - times[i])
    return jnp.where(jnp.any(below), t, jnp.nan)


def flow_scale_t(times: Float[Array, " n"], t2e: Float[Array, " n"], level: float = 0.3) -> Float[Array, ""]:
    """t_c with <t^2 E>(t_c) = c: t_{0.3} is Luescher's t_0 (1006.4518, Eq. 3.6); `t2e` is t^2 <E> at `times`."""
    return crossing(times, t2e, level)


def flow_scale_w(times: Float[Array, " n"], t2e: Float[Array, " n"], level: float = 0.3) -> Float[Array, ""]:
    """w_0 with t d/dt (t^2 <E>) = `level` at t = w_0^2 (1203.4469), from differences of neighbouring times."""
    middle = (times[1:] + times[:-1]) / 2
    slope = middle * (t2e[1:] - t2e[:-1]) / (times[1:] - times[:-1])
    return jnp.sqrt(crossing(middle, slope, level))


def _generators(group: AbstractGroup) -> float:
    """1 / Tr T_a^2."""
    return 2.0 if group.colour_shape else 1.0


def _square(group: AbstractGroup, F: Inexact[Array, "..."]) -> Float[Array, "..."]:
    """Tr F^2."""
    square = F.real**2 + F.imag**2
    return square.sum(1).sum(0) if group.colour_shape else square
