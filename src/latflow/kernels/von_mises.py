"""Exact von Mises draws for a whole lattice of concentrations at once."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray


class _Draws(NamedTuple):
    key: PRNGKeyArray
    tangent: Float[Array, "..."]
    accepted: Bool[Array, "..."]


def von_mises(key: PRNGKeyArray, concentration: Float[Array, "..."]) -> Float[Array, "..."]:
    """Angles in [-pi, pi] with density proportional to exp(kappa cos(angle)), one per entry of `concentration` kappa >= 0.

    Rejection from the wrapped Cauchy distribution (Best and Fisher, Appl. Statist. 28 (1979) 152), repeated until every entry
    is accepted, so the draws are exact; at least 0.65 of the proposals are accepted at any kappa. Written in
    s = sin^2(angle/2), where target and proposal are exp(-2 kappa s) and 1/(1 + g s): no digits cancel between kappa = 0 and
    1e4, also in single precision. The ratio is largest at s* = 1/(2 kappa) - 1/g, and g = 2 kappa - 1 + sqrt(1 + 4 kappa^2)
    makes it smallest. Entries with a non-finite concentration come back as NaN.
    """
    kappa = concentration
    root = jnp.hypot(jnp.ones_like(kappa), 2 * kappa)
    g = 2 * kappa * (1 + 2 * kappa / (1 + root))
    peak = 1 / (1 + root + 2 * kappa)
    hopeless = ~jnp.isfinite(g)

    def propose(draws: _Draws) -> _Draws:
        key, angle_key, accept_key = jax.random.split(draws.key, 3)
        cauchy = _tangent(jax.random.uniform(angle_key, kappa.shape, kappa.dtype, -jnp.pi / 2, jnp.pi / 2))
        square = cauchy * cauchy / (1 + g)
        s = square / (1 + square)
        log_ratio = -2 * kappa * (s - peak) + jnp.log1p(g * (s - peak) / (1 + g * peak))
        good = jax.random.uniform(accept_key, kappa.shape, kappa.dtype) < jnp.exp(log_ratio)
        return _Draws(key, jnp.where(draws.accepted, draws.tangent, cauchy), draws.accepted | good)

    first = _Draws(key, jnp.full_like(kappa, jnp.nan), hopeless)
    draws = jax.lax.while_loop(lambda draws: ~jnp.all(draws.accepted), propose, first)
    return 2 * jnp.arctan(draws.tangent * jax.lax.rsqrt(1 + g))


def _tangent(angle: Float[Array, "..."]) -> Float[Array, "..."]:
    """tan on [-pi/2, pi/2], to float64 precision: the Pade approximant [9/8] of tan(angle/2), and the double-angle formula.

    XLA vectorises it on CPUs, which it does not with its own trigonometric functions: the draws are three times faster.
    """
    x = angle / 2
    q = x * x
    sine = x * (34459425 + q * (-4729725 + q * (135135 + q * (-990 + q))))
    cosine = 34459425 + q * (-16216200 + q * (945945 + q * (-13860 + q * 45)))
    return 2 * sine * cosine / ((cosine - sine) * (cosine + sine))
