"""Gaussian draws of pseudofermions: several for one configuration, independent or arranged to even each other out.

Each draw by itself has the density exp(-chi^dagger chi) / pi^N, whatever the kind, so that any mean over draws is unbiased."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, PRNGKeyArray

Draws = Literal["independent", "orthogonal", "antithetic"]


def noise_key(key: PRNGKeyArray) -> PRNGKeyArray:
    """The key of the noise that goes with a batch drawn with `key`: none of `jax.random.split(key, size)`, which are
    `fold_in(key, 0)`, `fold_in(key, 1)`, ..."""
    return jax.random.fold_in(key, 2**32 - 1)


def gaussian_draws(
    key: PRNGKeyArray, number: int, shape: tuple[int, ...], dtype, kind: Draws = "independent"
) -> Complex[Array, "number ..."]:
    """`number` draws chi of the complex Gaussian of unit covariance on spinors of `shape`.

    "orthogonal": the directions within each block of at most N draws are orthogonal to each other and uniformly distributed as
    a whole (the unitary factor of a Gaussian matrix), the lengths independent (cf. F. X. Yu et al., 1610.09072). "antithetic":
    draws come in pairs; the squared modulus of a component, exponentially distributed, is -log u in the first and -log(1 - u)
    in the second, phases are independent. Raises ValueError for no draw.
    """
    if number < 1:
        raise ValueError(f"there must be one draw at least, got {number}")
    if kind == "orthogonal":
        return _orthogonal(key, number, math.prod(shape), dtype).reshape(number, *shape)
    if kind == "antithetic":
        return _antithetic(key, number, shape, dtype)
    return jax.random.normal(key, (number, *shape), dtype)


def _orthogonal(key: PRNGKeyArray, number: int, size: int, dtype) -> Array:
    blocks = []
    for i in range(0, number, size):
        n = min(size, number - i)
        direction, length = jax.random.split(jax.random.fold_in(key, i))
        gaussian = jax.random.normal(direction, (size, n), dtype)
        q, r = jnp.linalg.qr(gaussian)
        # the phases of diag(r) make the unitary factor Haar distributed
        diagonal = jnp.diagonal(r)
        q = q * (diagonal / jnp.abs(diagonal))[None]
        other = jax.random.normal(length, (size, n), dtype)
        norm = jnp.sqrt(jnp.sum(jnp.abs(other) ** 2, axis=0, keepdims=True))
        blocks.append((q * norm.astype(dtype)).T)
    return jnp.concatenate(blocks)


def _antithetic(key: PRNGKeyArray, number: int, shape: tuple[int, ...], dtype) -> Array:
    real = jnp.finfo(dtype).dtype
    modulus, phase = jax.random.split(key)
    pairs = (number + 1) // 2
    # a draw of exactly zero stands for what is below the resolution; its partner would be infinite
    first = jnp.maximum(jax.random.exponential(modulus, (pairs, *shape), real), jnp.finfo(real).eps / 4)
    second = -jnp.log(-jnp.expm1(-first))
    squared = jnp.stack([first, jnp.maximum(second, 0)], axis=1).reshape(2 * pairs, *shape)[:number]
    angle = jax.random.uniform(phase, (number, *shape), real, 0, 2 * math.pi)
    return jnp.sqrt(squared) * jnp.exp(1j * angle).astype(dtype)
