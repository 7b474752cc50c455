"""latflow convert, inspect and measure on configuration files, from the command line."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
from test_cli import latflow
from test_nersc import SHAPE, random_links

from latflow.groups import SUN
from latflow.io.nersc import write_nersc
from latflow.lattice import Geometry
from latflow.observables import find


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Five configurations in NERSC files."""
    paths = [tmp_path_factory.mktemp("files") / f"conf.{n}" for n in range(5)]
    for n, path in enumerate(paths):
        write_nersc(path, random_links(seed=n))
    return paths


def test_convert_there_and_back_inspect_and_damage(files, tmp_path):
    there, back = tmp_path / "a.lime", tmp_path / "b.nersc"
    done = latflow("convert", str(files[0]), str(there))
    assert done.returncode == 0 and "convert " not in done.stderr  # nothing about what is quick
    document = json.loads(latflow("inspect", str(there), "--json").stdout)
    assert document["format"] == "ildg" and document["lattice"] == list(SHAPE) and document["precision"] == "double"
    expected = find("plaquette").evaluate(SUN(3), Geometry(SHAPE), jnp.asarray(random_links()))
    assert document["plaquette"] == pytest.approx(float(expected), abs=1e-14)
    assert document["distance_from_su3"] < 1e-13
    shown = latflow("inspect", str(there)).stdout
    assert "verified" in shown and "4x2x3x5" in shown and "ildg-binary-data" in shown
    assert latflow("convert", str(there), str(back)).returncode == 0
    assert back.read_bytes() == files[0].read_bytes()
    refused = latflow("convert", str(there), str(back))
    assert refused.returncode == 2 and "exists already" in refused.stderr and "--force" in refused.stderr
    damaged = bytearray(there.read_bytes())
    damaged[5000] ^= 1
    there.write_bytes(damaged)
    done = latflow("inspect", str(there))
    assert done.returncode == 2 and "checksums" in done.stderr and "Traceback" not in done.stderr


def test_measure_files(files, tmp_path):
    done = latflow("measure", *map(str, files), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    row = document["observables"]["plaquette"]
    expected = [float(find("plaquette").evaluate(SUN(3), Geometry(SHAPE), jnp.asarray(random_links(seed=n)))) for n in range(5)]
    np.testing.assert_allclose(row["values"], expected, atol=1e-12)
    assert row["value"] == pytest.approx(np.mean(expected), abs=1e-12) and row["error"] > 0
    one = latflow("measure", str(files[0]), "--observable", "plaquette")
    assert one.returncode == 0 and "none: they need 5" in one.stdout
    write_nersc(tmp_path / "other", random_links()[..., :2])
    mixed = latflow("measure", str(files[0]), str(tmp_path / "other"))
    assert mixed.returncode == 2 and str(files[0]) in mixed.stderr and str(tmp_path / "other") in mixed.stderr
    unknown = latflow("measure", str(files[0]), "--observable", "plaquete")
    assert unknown.returncode == 2 and "did you mean" in unknown.stderr
