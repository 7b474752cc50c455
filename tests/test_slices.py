"""Configuration files slice by slice: the same bits as in memory, in bounded memory, verified before anything appears."""

from __future__ import annotations

import itertools
import os
import signal
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_ildg import by_hand
from test_nersc import SHAPE

from latflow.app import configurations
from latflow.app.progress import Progress, slices_of
from latflow.errors import FileError, Interrupted, LatflowError
from latflow.io import slices
from latflow.io.configuration import convert_configuration, open_configuration, read_configuration, write_configuration
from latflow.io.ildg import read_ildg, write_ildg
from latflow.io.link_order import deviation
from latflow.io.nersc import read_nersc, write_nersc

SOURCES = ["ildg32", "ildg64", "ildg-early-checksum", "nersc322", "nersc323le", "nersc642le", "nersc643"]
FORMATS: tuple[Any, ...] = ("nersc", "ildg")
TARGETS = [("ildg", bits, None) for bits in (None, 32, 64)]
TARGETS += [("nersc", bits, rows) for bits, rows in itertools.product((None, 32, 64), (None, 2, 3))]


def haar(shape: tuple[int, ...]) -> np.ndarray:
    """Links (3, 3, 4, *shape)."""
    rng = np.random.default_rng(7)
    q = np.linalg.qr(rng.normal(size=(4, *shape, 3, 3)) + 1j * rng.normal(size=(4, *shape, 3, 3)))[0]
    q /= np.linalg.det(q)[..., None, None] ** (1 / 3)
    return np.ascontiguousarray(np.moveaxis(q, (-2, -1), (0, 1)))


def exact(kind: str, links: np.ndarray) -> np.ndarray:
    return links.astype(np.complex64 if "32" in kind else np.complex128)


def source(path: Path, kind: str, links: np.ndarray) -> Path:
    """A file of some kind; of ILDG with records of others."""
    links = exact(kind, links)
    if kind.startswith("ildg"):
        content = by_hand(links, 32 if "32" in kind else 64)
        if "early" in kind:  # the checksum stands before the links
            marks = [content.index(name) - 16 for name in (b"ildg-binary-data", b"scidac-checksum", b"ildg-data-lfn")]
            data, sums = (bytearray(content[a:b]) for a, b in itertools.pairwise(marks))
            data[6], sums[6] = sums[6], data[6]  # the flags: now the other record ends the message
            content = content[: marks[0]] + bytes(sums + data) + content[marks[2] :]
        path.write_bytes(content)
    else:
        write_nersc(path, links, rows=int(kind[7]), little_endian=kind.endswith("le"))
    return path


def only(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_conversion_gives_the_bits_of_the_way_through_memory(tmp_path, kind):
    path = source(tmp_path / "a", kind, haar(SHAPE))
    pulled_back = [(format, None, None, True) for format in ("ildg", "nersc")]
    for format, bits, rows, pulled in [*((*target, False) for target in TARGETS), *pulled_back]:
        found = read_configuration(path, reunitarise=pulled)
        write_configuration(tmp_path / "b", found, format=format, bits=bits, rows=rows)
        steps = []
        options: dict[str, Any] = {"format": format, "bits": bits, "rows": rows, "reunitarise": pulled}
        extents = convert_configuration(path, tmp_path / "c", **options, note=lambda *step, to=steps: to.append(step))
        assert (tmp_path / "c").read_bytes() == (tmp_path / "b").read_bytes(), options
        assert extents == found.lattice and steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
        if not pulled and (bits, rows) == (None, None) and kind.startswith(format):
            assert (tmp_path / "c").read_bytes() == path.read_bytes()
    assert only(tmp_path) == {"a", "b", "c"}


LOOP = "ij...,jk...,lk...,il...->..."  # the last two are conjugated


def loop(links, mu, nu):
    u, v = links[:, :, mu], links[:, :, nu]
    return u, np.roll(v, -1, 2 + mu), np.roll(u, -1, 2 + nu).conj(), v.conj()


@pytest.mark.parametrize("shape", [(1, 2, 3, 4), (2, 5, 1, 1), (7, 1, 2, 3)])
def test_extents(tmp_path, shape):
    """The claims of the NERSC header, over the boundary of time too, against formulas; and what `inspect` says."""
    links = haar(shape)
    write_ildg(tmp_path / "a", links)
    convert_configuration(tmp_path / "a", tmp_path / "b", format="nersc")
    write_nersc(tmp_path / "c", links)
    assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()
    plaquette = np.mean([np.einsum(LOOP, *loop(links, mu, nu)).real / 3 for mu in range(4) for nu in range(mu)])
    trace = np.einsum("ii...->...", links).real.mean() / 3
    found = read_nersc(tmp_path / "b")
    np.testing.assert_array_equal(found.links, links)
    assert float(found.header["PLAQUETTE"]) == pytest.approx(plaquette, abs=1e-10)
    assert float(found.header["LINK_TRACE"]) == pytest.approx(trace, abs=1e-10)
    for path in (tmp_path / "a", tmp_path / "b"):
        document = configurations.describe(path)
        assert document["plaquette"] == pytest.approx(plaquette, abs=1e-14) and document["lattice"] == list(shape)
        assert document["link_trace"] == pytest.approx(trace, abs=1e-14)
        assert document["distance_from_su3"] == max(deviation(u) for u in np.moveaxis(links, 3, 0))


@pytest.mark.parametrize("longer", [-3, 0, 5])
@pytest.mark.parametrize("chunk", [1, 1000, 1 << 20])
def test_a_text_in_front_of_another_length_than_expected(tmp_path, monkeypatch, longer, chunk):
    class Text:
        layout = slices.Layout((4, 2, 3, 5), 3, np.dtype(">f4"))
        reserved = 9

        def add(self, u, data):
            pass

        def finish(self):
            return b"x" * (9 + longer), b"end"

    links = haar(SHAPE).astype(np.complex64)
    monkeypatch.setattr(slices, "_CHUNK", chunk)
    slices.write_slices(tmp_path / "a", np.moveaxis(links, 3, 0), Text())
    monkeypatch.undo()
    write_ildg(tmp_path / "b", links)
    content, other = (tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()
    start = other.index(b"ildg-binary-data") + 128
    assert content == b"x" * (9 + longer) + other[start : start + 8 * links.size] + b"end"


def peak(action) -> int:
    tracemalloc.start()
    action()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def test_memory_does_not_grow_with_time(tmp_path, monkeypatch):
    monkeypatch.setattr(slices, "_CHUNK", 1 << 14)  # a constant, but half of this file
    links = haar((48, 4, 4, 4))
    write_nersc(tmp_path / "nersc", links)
    write_ildg(tmp_path / "ildg", links)
    size, peaks = links.nbytes, {}
    ways: list[Any] = [("nersc", "ildg", False), ("ildg", "nersc", False), ("ildg", "nersc", True)]
    actions: dict[Any, Any] = {
        (kind, format, pulled): lambda kind=kind, format=format, pulled=pulled: convert_configuration(
            tmp_path / kind, tmp_path / "out", format=format, reunitarise=pulled
        )
        for kind, format, pulled in ways
    }
    actions |= {kind: lambda kind=kind: configurations.describe(tmp_path / kind) for kind in ("nersc", "ildg")}
    actions["whole"] = lambda: read_ildg(tmp_path / "ildg")
    for name, action in actions.items():
        peaks[name] = min(peak(action), peak(action)) / size  # something is imported or compiled once
    assert 1 < peaks.pop("whole") < 1.25  # so the links are seen by tracemalloc
    assert max(peaks.values()) < 0.25, peaks


@pytest.mark.parametrize("kind", ["nersc643", "nersc323le", "ildg64"])
@pytest.mark.parametrize("format", ["nersc", "ildg"])
@pytest.mark.parametrize("pulled", [False, True])
def test_a_flipped_bit_in_the_last_slice_leaves_what_was_there(tmp_path, kind, format, pulled):
    path = source(tmp_path / "a", kind, haar(SHAPE))
    (tmp_path / "b").write_bytes(b"old")
    content = bytearray(path.read_bytes())
    with open_configuration(path) as file:
        start, size = file.start, file.layout.slice_bytes
    for where in (0, 2 * size - 1, 3 * size, 4 * size - 1):
        damaged = bytearray(content)
        damaged[start + where] ^= 0x40  # of an exponent perhaps: numbers of any size
        path.write_bytes(damaged)
        with pytest.raises(FileError, match="checksum"):
            convert_configuration(path, tmp_path / "b", format=format, reunitarise=pulled)
        with pytest.raises(FileError, match="checksum"):
            configurations.describe(path, pulled)
        with pytest.raises(FileError, match="checksum"):
            read_configuration(path, reunitarise=pulled)
        seen = []
        with open_configuration(path) as file, pytest.raises(FileError, match="checksum"):
            seen.extend(slices.read_stream(file).slices)
        assert len(seen) < 4  # never all of them
    assert (tmp_path / "b").read_bytes() == b"old" and only(tmp_path) == {"a", "b"}


def test_links_off_the_group_and_wrong_claims_leave_nothing(tmp_path):
    links = haar(SHAPE)
    links[0, 0, 1, 3, 0, 1, 3] += 1e-9
    source(tmp_path / "a", "ildg64", links)
    for format in FORMATS:
        with pytest.raises(FileError, match=r"away from SU\(3\).*reunitarise"):
            convert_configuration(tmp_path / "a", tmp_path / "b", format=format)
    path = source(tmp_path / "c", "nersc643", haar(SHAPE))
    path.write_bytes(path.read_bytes().replace(b"PLAQUETTE = ", b"PLAQUETTE = 1"))
    with pytest.raises(FileError, match="PLAQUETTE"):
        convert_configuration(path, tmp_path / "b", format="ildg")
    assert only(tmp_path) == {"a", "c"}


@pytest.mark.parametrize("kind", ["nersc643", "ildg64"])
@pytest.mark.parametrize("at", [1, 3, 4])
def test_an_interruption_leaves_nothing(tmp_path, kind, at):
    path = source(tmp_path / "a", kind, haar(SHAPE))

    def ctrl_c(done, total):
        if done == at:
            raise KeyboardInterrupt

    for format in FORMATS:
        with pytest.raises(KeyboardInterrupt):
            convert_configuration(path, tmp_path / "b", format=format, note=ctrl_c)
        assert only(tmp_path) == {"a"}
    with pytest.raises(KeyboardInterrupt):
        read_configuration(path, note=ctrl_c)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_commands_between_slices(tmp_path, signum):
    path = source(tmp_path / "a", "nersc643", haar(SHAPE))

    def signalled(note):
        return lambda done, total: (os.kill(os.getpid(), signum) if done == 2 else None, note(done, total))

    expected = pytest.raises(Interrupted, match="after 2 of 4 time slices: nothing was written")
    with expected as caught, slices_of("convert", "nothing was written", quiet=True) as note:
        configurations.convert(path, tmp_path / "b.lime", note=signalled(note))
    assert caught.value.signum == signum and only(tmp_path) == {"a"}


def test_progress_is_shown_only_of_what_takes_its_time(tmp_path, capsys):
    for after, quiet, shown in ((60.0, False, False), (1e-9, False, True), (1e-9, True, False)):
        with Progress("convert", 4, quiet=quiet, after=after) as progress:
            progress.update(4)
        err = capsys.readouterr().err
        assert err.startswith("convert   4/4") if shown else err == ""


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    path = source(tmp_path / "a", "ildg64", haar(SHAPE))
    with pytest.raises(FileError, match=r"ends in time slice 2.*changed"):
        convert_configuration(
            path, tmp_path / "b", format="nersc", note=lambda done, _: os.truncate(path, 25000) if done == 2 else None
        )
    assert only(tmp_path) == {"a"}


def test_onto_itself_and_from_the_place_of_the_unfinished(tmp_path):
    path = source(tmp_path / "a", "nersc643", haar(SHAPE))
    content = path.read_bytes()
    convert_configuration(path, path, format="ildg")
    convert_configuration(path, path, format="nersc")
    assert path.read_bytes() == content
    path.rename(tmp_path / "b.partial")
    with pytest.raises(LatflowError, match=r"b\.partial cannot be converted.*rename"):
        configurations.convert(tmp_path / "b.partial", tmp_path / "b")
    assert (tmp_path / "b.partial").read_bytes() == content
