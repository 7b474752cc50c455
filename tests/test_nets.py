"""Periodic networks: equal to a direct sum, translation equivariant, dtype preserving, in one to four dimensions."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latflow.nets import ConvNet, PeriodicConv, PointwiseNet, SeparableConv

KEY = jax.random.key(3)


def test_convolution_equals_direct_sum():
    conv = PeriodicConv(2, 3, (3, 5), key=KEY, dtype=jnp.float64)
    x = np.asarray(jax.random.normal(jax.random.key(1), (2, 4, 6)))
    kernel = np.asarray(conv.weight).reshape(3, 3, 5, 2)
    want = np.zeros((3, 4, 6))
    for o, i, a, b, s, t in itertools.product(range(3), range(2), range(3), range(5), range(4), range(6)):
        want[o, s, t] += kernel[o, a, b, i] * x[i, (s + a - 1) % 4, (t + b - 2) % 6]
    np.testing.assert_allclose(conv(jnp.asarray(x)), want, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "grid"),
    [
        (lambda: PeriodicConv(2, 3, (3,), key=KEY, dtype=jnp.float64), (5,)),
        (lambda: ConvNet(2, (4, 3), (3, 3), key=KEY, dtype=jnp.float64), (4, 6)),
        (lambda: SeparableConv(2, 3, (3, 3, 3, 3), key=KEY, dtype=jnp.float64), (4, 3, 2, 4)),
        (lambda: ConvNet(2, (4,), (3, 3, 3), key=KEY, separable=True, dtype=jnp.float64), (4, 3, 2)),
        (lambda: PointwiseNet(2, (4,), 3, key=KEY, dtype=jnp.float64), (4, 6)),
    ],
)
def test_translation_equivariance(make, grid):
    net = make()
    x = jax.random.normal(jax.random.key(2), (2, *grid))
    move = tuple(range(1, len(grid) + 1))
    axes = tuple(range(1, len(grid) + 1))
    np.testing.assert_allclose(net(jnp.roll(x, move, axes)), jnp.roll(net(x), move, axes), atol=1e-12)


def test_single_precision_stays_single():
    net = ConvNet(2, (4,), (3, 3), key=KEY)
    assert net(jnp.ones((2, 4, 4), jnp.float32)).dtype == jnp.float32


def test_even_kernels_are_refused():
    with pytest.raises(ValueError, match="odd"):
        PeriodicConv(1, 1, (2, 3), key=KEY)
