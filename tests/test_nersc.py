"""NERSC files: every format, against a reader written here entry by entry; bit identity; every kind of damage is named."""

from __future__ import annotations

import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latflow.errors import FileError
from latflow.groups import SUN
from latflow.io.nersc import read_nersc, write_nersc
from latflow.io.slices import measured
from latflow.lattice import Geometry
from latflow.loops import plaquette

SHAPE = (4, 2, 3, 5)  # T, X, Y, Z


def random_links(dtype=np.complex128, seed: int = 0):
    return np.asarray(SUN(3).haar(jax.random.key(seed), (4, *SHAPE), jnp.complex128)).astype(dtype)


def entry(content: bytes, rows: int, bits: int, order: str, t, x, y, z, mu, i, j) -> complex:
    """One matrix element, counted by hand: mu in the file's order x, y, z, t."""
    T, X, Y, Z = SHAPE
    start = content.index(b"END_HEADER\n") + len(b"END_HEADER\n")
    index = (((((t * Z + z) * Y + y) * X + x) * 4 + mu) * rows + i) * 3 + j
    size = bits // 8
    real, imaginary = struct.unpack_from(order + ("ff" if bits == 32 else "dd"), content, start + 2 * size * index)
    assert len(content) == start + T * X * Y * Z * 4 * rows * 3 * 2 * size
    return complex(real, imaginary)


@pytest.mark.parametrize("rows", [2, 3])
@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("little", [False, True])
def test_layout_and_bit_identity(tmp_path, rows, bits, little):
    links = random_links(np.complex64 if bits == 32 else np.complex128)
    path, again = tmp_path / "a", tmp_path / "b"
    write_nersc(path, links, rows=rows, little_endian=little)
    content = path.read_bytes()
    for t, x, y, z, mu, i, j in [(0, 0, 0, 0, 0, 0, 0), (3, 1, 2, 4, 3, 1, 2), (1, 1, 0, 3, 1, 0, 1), (2, 0, 1, 2, 2, 1, 0)]:
        ours = links[i, j, (mu + 1) % 4, t, x, y, z]
        assert entry(content, rows, bits, "<" if little else ">", t, x, y, z, mu, i, j) == ours
    found = read_nersc(path)
    assert found.links.dtype == links.dtype and found.lattice == SHAPE
    np.testing.assert_allclose(found.links, links, atol=0 if rows == 3 else 1e-6 if bits == 32 else 1e-14)
    write_nersc(again, found.links, like=found)
    assert again.read_bytes() == content
    words = np.frombuffer(content[content.index(b"END_HEADER\n") + 11 :], "<u4" if little else ">u4")
    assert int(found.header["CHECKSUM"], 16) == sum(map(int, words)) % 2**32


@pytest.mark.parametrize("little", [False, True])
def test_endianness_that_is_not_stated_is_found_by_the_checksum(tmp_path, little):
    path, again = tmp_path / "a", tmp_path / "b"
    write_nersc(path, random_links(), little_endian=little)
    stated = b"IEEE64LITTLE" if little else b"IEEE64BIG"
    path.write_bytes(path.read_bytes().replace(stated, b"IEEE64"))
    found = read_nersc(path)
    np.testing.assert_array_equal(found.links, random_links())
    write_nersc(again, found.links, like=found)
    assert again.read_bytes() == path.read_bytes()


def test_header_lines_of_others_are_kept_and_changed_links_get_a_new_checksum(tmp_path):
    path, again = tmp_path / "a", tmp_path / "b"
    write_nersc(path, random_links())
    path.write_bytes(path.read_bytes().replace(b"END_HEADER", b"ENSEMBLE_LABEL =  odd  spacing \nEND_HEADER"))
    found = read_nersc(path)
    write_nersc(again, found.links, like=found)
    assert again.read_bytes() == path.read_bytes()
    write_nersc(again, random_links(seed=1), like=found)
    np.testing.assert_array_equal(read_nersc(again).links, random_links(seed=1))


def test_every_flipped_bit_of_the_links_is_noticed(tmp_path):
    path = tmp_path / "a"
    write_nersc(path, random_links(np.complex64))
    content = path.read_bytes()
    start = content.index(b"END_HEADER\n") + 11
    for position in np.random.default_rng(0).integers(start, len(content), 40):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(position % 8)
        path.write_bytes(damaged)
        with pytest.raises(FileError, match="checksum"):
            read_nersc(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"DIMENSION_1 = 2", b"DIMENSION_1 = 3", "bytes of links"),
        (b"DIMENSION_1 = 2", b"DIMENSION_1 = x", "DIMENSION_1 = x"),
        (b"DIMENSION_1 = 2", b"DIMENSION_1 = 0", "positive"),
        (b"DIMENSION_2 = 3\n", b"", "no DIMENSION_2"),
        (b"DIMENSION_1 = 2\nDIMENSION_2 = 3", b"DIMENSION_1 = 3\nDIMENSION_2 = 2", "PLAQUETTE"),
        (b"CHECKSUM = ", b"CHECKSUM = 1", "checksum"),
        (b"CHECKSUM", b"CHECKSU\xcd", "CHECKSU"),
        (b"PLAQUETTE = ", b"PLAQUETTE = 1", "PLAQUETTE"),
        (b"LINK_TRACE = ", b"LINK_TRACE = 1", "LINK_TRACE"),
        (b"IEEE64BIG", b"IEEE48BIG", "FLOATING_POINT = IEEE48BIG"),
        (b"IEEE64BIG", b"IEEE32BIG", "bytes of links"),
        (b"GAUGE_3x3", b"GAUGE_4x4", "DATATYPE"),
        (b"GAUGE_3x3", b"GAUGE", "bytes of links"),
        (b"BEGIN_HEADER", b"BEGIN_HEADES", "not a NERSC file"),
        (b"END_HEADER", b"END_HEADES", "END_HEADER|no END|line"),
        (b"HDR_VERSION = 1.0", b"HDR_VERSION = 1.0\nHDR_VERSION = 1.0", "line"),
    ],
)
def test_damaged_headers_are_named(tmp_path, old, new, message):
    path = tmp_path / "a"
    write_nersc(path, random_links())
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(FileError, match=message):
        read_nersc(path)


@pytest.mark.parametrize("cut", [1, 7, 5000])
def test_truncated_and_extended_files_are_refused(tmp_path, cut):
    path = tmp_path / "a"
    write_nersc(path, random_links())
    content = path.read_bytes()
    for damaged in (content[:-cut], content + b"\0" * cut):
        path.write_bytes(damaged)
        with pytest.raises(FileError, match="bytes of links"):
            read_nersc(path)


def test_links_off_the_group_are_refused_or_pulled_back(tmp_path):
    path, links = tmp_path / "a", random_links()
    with pytest.raises(FileError, match="away from SU"):
        write_nersc(path, 1.0001 * links)
    write_nersc(path, links.astype(np.complex64), bits=64)  # single-precision links in a file of double precision
    with pytest.raises(FileError, match=r"away from SU\(3\), more than 1e-12.*reunitarise"):
        read_nersc(path)
    found = read_nersc(path, reunitarise=True).links
    np.testing.assert_allclose(found, links, atol=1e-6)
    unit = np.einsum("ki...,kj...->ij...", found.conj(), found)
    np.testing.assert_allclose(unit, np.broadcast_to(np.eye(3).reshape(3, 3, 1, 1, 1, 1, 1), unit.shape), atol=1e-14)


def test_other_links_and_missing_files(tmp_path):
    with pytest.raises(ValueError, match=r"shape \(3, 3, 4, T, X, Y, Z\)"):
        write_nersc(tmp_path / "a", np.zeros((2, 2, 4, 2, 2, 2, 2), complex))
    with pytest.raises(ValueError, match="rows=1"):
        write_nersc(tmp_path / "a", random_links(), rows=1)
    with pytest.raises(ValueError, match="lattice"):
        write_nersc(tmp_path / "a", random_links()[..., :2], like=_written(tmp_path))
    with pytest.raises(FileError, match="does not exist"):
        read_nersc(tmp_path / "none")


def _written(folder):
    write_nersc(folder / "h", random_links())
    return read_nersc(folder / "h")


@pytest.mark.parametrize("dtype, tolerance", [(jnp.complex64, 1e-6), (jnp.complex128, 1e-14)])
def test_mean_plaquette_is_that_of_the_loops(dtype, tolerance):
    geometry, group = Geometry((2, 3, 4, 5)), SUN(3)
    links = group.haar(jax.random.key(5), (4, *geometry.shape), dtype)
    known = np.mean([group.re_trace(plaquette(group, geometry, links, *plane)).mean() for plane in geometry.planes]) / 3
    assert abs(measured(np.moveaxis(np.asarray(links), 3, 0)).plaquette - known) < tolerance
