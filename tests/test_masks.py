"""Coupling masks: every layer is triangular, every cycle updates every link, compact arrays hold exactly the active links."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from latflow.lattice import (
    Geometry,
    checkerboard_sites,
    coarse_to_fine,
    diagonal,
    stripes,
    touched_plaquettes,
)

CYCLES = {
    "stripes 8x8": [stripes(Geometry((8, 8)), mu) for mu in range(2)],
    "stripes 4x12, width 4": [stripes(Geometry((4, 12)), mu) for mu in range(2)],
    "stripes 6x9, width 3": [stripes(Geometry((6, 9)), mu, 3) for mu in range(2)],
    "diagonal 2D": [diagonal(Geometry((8, 4)), mu) for mu in range(2)],
    "diagonal 3D": [diagonal(Geometry((4, 8, 4)), mu) for mu in range(3)],
    "diagonal 4D": [diagonal(Geometry((4, 4, 4, 8)), mu) for mu in range(4)],
}


@pytest.mark.parametrize("name", CYCLES)
def test_cycle_updates_every_link_once(name):
    masks = CYCLES[name]
    total = sum(mask.links(phase).astype(int) for mask in masks for phase in range(mask.num_phases))
    assert (total == 1).all()
    assert sum(mask.num_phases for mask in masks) <= 4 * masks[0].geometry.Nd


@pytest.mark.parametrize("name", CYCLES)
def test_no_plaquette_holds_two_active_links(name):
    for mask in CYCLES[name]:
        for phase in range(mask.num_phases):
            touched = touched_plaquettes(mask.geometry, mask.links(phase))
            assert touched.max() == 1
            assert (touched == 0).any()  # frozen loops exist
        assert mask.frozen_plaquettes().sum() == (touched_plaquettes(mask.geometry, mask.links()) == 0).sum()


@pytest.mark.parametrize("name", CYCLES)
def test_compact_and_expand(name):
    for mask in CYCLES[name]:
        sites = mask.sites()
        values = jnp.arange(2.0 * mask.geometry.volume).reshape(2, *mask.geometry.shape) + 1
        compact = mask.compact(values)
        assert compact.shape == (2, *mask.grid)
        assert set(np.asarray(compact[0]).ravel()) == set(np.asarray(values[0])[sites].ravel())
        np.testing.assert_array_equal(mask.expand(compact), np.where(sites, values, 0))
        np.testing.assert_array_equal(mask.compact(mask.expand(compact)), compact)


@pytest.mark.parametrize("shape", [(8, 8), (4, 16), (16, 2)])
def test_coarse_to_fine_bisects_down_to_plaquettes(shape):
    geometry = Geometry(shape)
    levels = coarse_to_fine(geometry)
    assert sum(int(np.prod(mask.grid)) for mask, _ in levels) == geometry.volume - 1
    plaquettes = np.arange(geometry.volume).reshape(shape)
    for mask, block in levels:
        assert block[0] * block[1] * np.prod(mask.grid) == geometry.volume
        # each block of plaquettes contains both sides of exactly one active link: its flux is untouched
        touched = touched_plaquettes(geometry, mask.links())[0]
        n0, n1 = mask.grid
        per_block = touched.reshape(n0, block[0], n1, block[1]).sum((1, 3))
        assert (per_block == 2).all()
        assert touched.max() == (2 if shape[0] == 1 or shape[1] == 1 else 1)
    assert levels[-1][1] in {(1, 2), (2, 1)}
    assert plaquettes.size == geometry.volume


def test_checkerboard():
    mask = checkerboard_sites(Geometry((4, 6)))
    np.testing.assert_array_equal(mask.sites(), Geometry((4, 6)).parity() == 0)
    assert mask.num_phases == 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: stripes(Geometry((8, 6)), 0), "multiple of 4"),
        (lambda: stripes(Geometry((8, 8, 8)), 0), "two dimensions"),
        (lambda: stripes(Geometry((8, 8)), 0, 1), "width"),
        (lambda: diagonal(Geometry((4, 4, 6, 4)), 0), "multiple of 4"),
        (lambda: coarse_to_fine(Geometry((8, 12))), "powers of two"),
        (lambda: checkerboard_sites(Geometry((4, 5))), "even extents"),
        (lambda: Geometry((4, 0)), "positive"),
    ],
)
def test_impossible_masks_name_the_reason(make, words):
    with pytest.raises(ValueError, match=words):
        make()
