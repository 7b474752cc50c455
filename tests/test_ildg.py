"""ILDG files: built by hand record by record; bit identity; every kind of damage is named; conversion from and to NERSC."""

from __future__ import annotations

import struct
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
from test_nersc import SHAPE, random_links

from latflow.errors import FileError
from latflow.groups import SUN
from latflow.io.configuration import format_of, read_configuration, write_configuration
from latflow.io.ildg import read_ildg, write_ildg
from latflow.io.nersc import read_nersc, write_nersc


def record(kind: bytes, data: bytes, flags: int) -> bytes:
    return struct.pack(">IHHQ128s", 0x456789AB, 1, flags, len(data), kind) + data + bytes(-len(data) % 8)


def by_hand(links, bits: int, checksum: bool = True) -> bytes:
    """A file as another code would write it, entry by entry, with records of its own."""
    T, X, Y, Z = links.shape[3:]
    data, suma, sumb, rank = b"", 0, 0, 0
    for t in range(T):
        for z in range(Z):
            for y in range(Y):
                for x in range(X):
                    values = [links[i, j, mu, t, x, y, z] for mu in (1, 2, 3, 0) for i in range(3) for j in range(3)]
                    flat = [part for v in values for part in (v.real, v.imag)]
                    site = struct.pack(f">72{'f' if bits == 32 else 'd'}", *flat)
                    crc = zlib.crc32(site)
                    for modulus in (29, 31):
                        n = rank % modulus
                        turned = (crc << n | crc >> (32 - n)) & 0xFFFFFFFF
                        suma, sumb = (suma ^ turned, sumb) if modulus == 29 else (suma, sumb ^ turned)
                    data, rank = data + site, rank + 1
    form = (
        '<?xml version="1.0"?>\n<ildgFormat xmlns="http://www.lqcd.org/ildg">\n<version> 1.0 </version>\n'
        f"<field>su3gauge</field><precision>{bits}</precision><lx>{X}</lx><ly>{Y}</ly>\n<lz>{Z}</lz><lt>{T}</lt></ildgFormat>\n"
    ).encode()
    sums = f"<scidacChecksum><version>1.0</version><suma>{suma:x}</suma><sumb>{sumb:x}</sumb></scidacChecksum>\0".encode()
    parts = [
        record(b"scidac-private-file-xml", b"<scidacFile/>", 0x8000),
        record(b"scidac-file-xml", b"made by hand", 0x4000),
        record(b"ildg-format", form, 0x8000),
        record(b"ildg-binary-data", data, 0 if checksum else 0x4000),
    ]
    parts += [record(b"scidac-checksum", sums, 0x4000)] if checksum else []
    return b"".join([*parts, record(b"ildg-data-lfn", b"lfn://nobody/nothing", 0xC000)])


@pytest.mark.parametrize("bits", [32, 64])
def test_files_of_others_are_read_and_written_bit_for_bit(tmp_path, bits):
    links = random_links(np.complex64 if bits == 32 else np.complex128)
    content = by_hand(links, bits)
    (tmp_path / "a").write_bytes(content)
    found = read_ildg(tmp_path / "a")
    np.testing.assert_array_equal(found.links, links)
    assert found.links.dtype == links.dtype and found.lattice == SHAPE and found.checksum is not None
    write_ildg(tmp_path / "b", found.links, like=found)
    assert (tmp_path / "b").read_bytes() == content
    write_ildg(tmp_path / "c", links)  # our own records
    again = read_ildg(tmp_path / "c")
    assert again.checksum == found.checksum
    np.testing.assert_array_equal(again.links, links)
    write_ildg(tmp_path / "d", again.links, like=again)
    assert (tmp_path / "d").read_bytes() == (tmp_path / "c").read_bytes()


def test_changed_links_get_a_new_checksum_and_other_records_stay(tmp_path):
    (tmp_path / "a").write_bytes(by_hand(random_links(), 64))
    found = read_ildg(tmp_path / "a")
    write_ildg(tmp_path / "b", random_links(seed=1), like=found)
    new = read_ildg(tmp_path / "b")
    assert new.checksum != found.checksum
    assert [(r.kind, r.data) for r in new.records if r.kind != "scidac-checksum"] == [
        (r.kind, r.data) for r in found.records if r.kind != "scidac-checksum"
    ]
    np.testing.assert_array_equal(new.links, random_links(seed=1))


def test_a_file_without_checksum_says_so(tmp_path):
    (tmp_path / "a").write_bytes(by_hand(random_links(), 64, checksum=False))
    assert read_ildg(tmp_path / "a").checksum is None


# What no reader can notice: text that others wrote for people, and the version and the namespace of the format record.
FREE = (b"<scidacFile/>", b"made by hand", b"lfn://nobody/nothing", b'<?xml version="1.0"?>', b"<version> 1.0 </version>")
FREE += (b'<ildgFormat xmlns="http://www.lqcd.org/ildg">', b"</ildgFormat>\n", b"\n<lz>", b"\n<field>", b"<scidacChecksum>")
FREE += (
    b"<version>1.0</version>",
    b"</scidacChecksum>\0",
    b"scidac-private-file-xml\0",
    b"scidac-file-xml\0",
    b"ildg-data-lfn\0",
)


def test_every_flipped_bit_is_noticed(tmp_path):
    """Outside of free text; where it may pass, the links are what they were."""
    links = random_links()[..., :2, :1, :2, :2]
    content = by_hand(links, 64)
    free = {i for text in FREE for i in range(content.index(text), content.index(text) + len(text))}
    # a text record may count some of its fill bytes as text
    texts = (b"scidac-private-file-xml", b"scidac-file-xml", b"ildg-format", b"scidac-checksum", b"ildg-data-lfn")
    free |= {content.index(kind) - 1 for kind in texts}
    start = content.index(b"ildg-binary-data") + 128
    data = range(start, start + links.size * 16)
    rng = np.random.default_rng(0)
    for i in [*(k for k in range(len(content)) if k not in data), *rng.choice(data, 60)]:
        damaged = bytearray(content)
        damaged[i] ^= 1 << int(rng.integers(8))
        (tmp_path / "a").write_bytes(damaged)
        try:
            found = read_ildg(tmp_path / "a")
        except FileError as error:
            assert str(tmp_path / "a") in str(error)
            continue
        assert i in free or content[i : i + 1].isalpha() or bytes(damaged[i : i + 1]).isspace(), (i, content[i - 9 : i + 9])
        np.testing.assert_array_equal(found.links, links)


@pytest.mark.parametrize("cut", [0, 3, 100, 144, 160, 500, -1, -8, -170])
def test_truncated_files_are_refused(tmp_path, cut):
    content = by_hand(random_links()[..., :2, :1, :2, :2], 32)
    (tmp_path / "a").write_bytes(content[:cut])
    with pytest.raises(FileError, match=str(tmp_path / "a")):
        read_ildg(tmp_path / "a")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"<lt>4</lt>", b"<lt>5</lt>", "bytes of links"),
        (b"<lx>2</lx>", b"<lx>0</lx>", "lx = '0'"),
        (b"su3gauge", b"su2gauge", "field 'su2gauge'"),
        (b"<precision>64", b"<precision>46", "precision = '46'"),
        (b"<suma>", b"<suna>", "scidac-checksum"),
        (b"<version>1.0</version><suma>", b"<version>1.0</varsion><suma>", "not valid XML"),
        (b"ildg-format", b"ildg-fornat", "0 records ildg-format"),
        (b"scidac-file-xml", b"ildg-format\0\0\0\0", "2 records ildg-format"),
    ],
)
def test_damaged_records_are_named(tmp_path, old, new, message):
    content = by_hand(random_links(), 64)
    assert content.count(old) == 1 and len(old) == len(new)
    (tmp_path / "a").write_bytes(content.replace(old, new))
    with pytest.raises(FileError, match=message):
        read_ildg(tmp_path / "a")


def test_links_off_the_group_are_refused_or_pulled_back(tmp_path):
    links = random_links()
    links[0, 0, 1, 2, 0, 1, 3] += 1e-9
    (tmp_path / "a").write_bytes(by_hand(links, 64))
    with pytest.raises(FileError, match=r"away from SU\(3\).*reunitarise"):
        read_ildg(tmp_path / "a")
    found = read_ildg(tmp_path / "a", reunitarise=True)
    assert float(SUN(3).reunitarise(jnp.asarray(found.links))[1]) < 1e-14
    with pytest.raises(FileError, match="away from"):
        write_ildg(tmp_path / "b", links)
    assert not (tmp_path / "b").exists()
    links[:, 0] *= -1  # unitary, but of determinant -1
    with pytest.raises(FileError, match="away from"):
        write_ildg(tmp_path / "b", links)


def test_conversion_between_the_formats(tmp_path):
    names = [tmp_path / name for name in "abcd"]
    write_nersc(names[0], random_links())
    assert format_of(names[0]) == "nersc"
    write_configuration(names[1], read_configuration(names[0]), format="ildg")
    assert format_of(names[1]) == "ildg"
    write_configuration(names[2], read_configuration(names[1]), format="nersc")
    assert names[2].read_bytes() == names[0].read_bytes()
    write_configuration(names[3], read_configuration(names[1]), format="nersc", bits=32, rows=2)
    assert read_nersc(names[3]).links.dtype == np.complex64
    names[3].write_bytes(b"something else")
    with pytest.raises(FileError, match="neither a NERSC nor an ILDG"):
        read_configuration(names[3])


@pytest.mark.parametrize("options", [{"bits": 16}, {"like": "other"}])
def test_wrong_arguments(tmp_path, options):
    if "like" in options:
        (tmp_path / "a").write_bytes(by_hand(random_links(), 64))
        options = {"like": read_ildg(tmp_path / "a")}
    with pytest.raises(ValueError):
        write_ildg(tmp_path / "b", random_links()[..., :2], **options)
