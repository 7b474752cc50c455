"""Masks, spin projectors and small matrices of pseudofermion layers."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from contracts import close

from latflow.dirac import gamma
from latflow.flows.pseudofermion_layers import adjugate, determinant
from latflow.flows.spinor_partition import SpatialPartition, SpinPartition
from latflow.lattice import Geometry


def test_masks_of_even_sites_cover_each_site_equally():
    for shape, count in (((4, 6), 2), ((2, 2, 4, 2), 8)):
        geometry = Geometry(shape)
        masks = SpatialPartition(geometry, True).masks()
        assert len(masks) == count
        np.testing.assert_array_equal(masks.sum(0), (geometry.parity() == 0) * count // 2)
        assert len({mask.tobytes() for mask in masks}) == count
    np.testing.assert_array_equal(SpatialPartition(Geometry((4, 2)), False).masks().sum(0), 1)


@pytest.mark.parametrize("Nd", [2, 4])
def test_spin_projectors(Nd):
    """Bases of (1 +- gamma_mu)/2 in turn, active and frozen halves orthogonal."""
    active, frozen = SpinPartition(Geometry((2,) * Nd), False).bases()
    g5 = np.diag(gamma.chirality(Nd))
    g = [*gamma.matrices(Nd), g5] if Nd == 4 else [g5]
    expected = [(np.eye(len(g5)) + s * a) / 2 for a in g for s in (1, -1)]
    assert len(active) == len(expected)
    for V, W, P in zip(active, frozen, expected, strict=True):
        close(V @ V.conj().T, P)
        close(W @ W.conj().T, np.eye(len(P)) - P)
        close(V.conj().T @ V, np.eye(len(P) // 2))


@pytest.mark.parametrize("n", [1, 2, 4])
def test_small_determinants(n):
    rng = np.random.default_rng(n)
    a = rng.normal(size=(5, n, n)) + 1j * rng.normal(size=(5, n, n))
    b = jnp.asarray(np.moveaxis(a, 0, -1))
    close(determinant(b), np.linalg.det(a))
    close(np.moveaxis(np.asarray(adjugate(b)), -1, 0), np.linalg.det(a)[:, None, None] * np.linalg.inv(a), 1e-11)
