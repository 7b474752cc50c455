"""Gauge configurations made by other codes: described, converted, measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latflow.errors import LatflowError

_FEWEST = 5  # configurations for an error by the Gamma method


def is_file_of_links(path: Path | str) -> bool:
    """Whether to treat a path of the command line as a configuration: any file but those that describe a run."""
    return Path(path).is_file() and Path(path).suffix != ".toml"


def double_precision() -> None:
    """Files hold up to 64 bits, and nothing here is worth saving time on."""
    import jax

    jax.config.update("jax_enable_x64", True)


def describe(path: Path, reunitarise: bool = False) -> dict[str, Any]:
    """The configuration in a file as a JSON document. Raises FileError for damage, naming what disagrees."""
    import jax.numpy as jnp
    import numpy as np

    from latflow.groups import SUN
    from latflow.io.configuration import format_of, read_configuration
    from latflow.io.link_order import deviation
    from latflow.lattice import Geometry
    from latflow.observables import find

    found = read_configuration(path, reunitarise=reunitarise)
    header: dict[str, Any] = {}
    if (kind := format_of(path)) == "nersc":
        checksum: str | None = found.header["CHECKSUM"]  # type: ignore[union-attr]
        header = dict(found.header)  # type: ignore[union-attr]
    else:
        sums = found.checksum  # type: ignore[union-attr]
        checksum = None if sums is None else f"{sums[0]:x} {sums[1]:x}"
        header = {"records": [record.kind for record in found.records]}  # type: ignore[union-attr]
    plaquette = find("plaquette").evaluate(SUN(3), Geometry(found.lattice), jnp.asarray(found.links))
    return {
        "file": str(path),
        "format": kind,
        "lattice": list(found.lattice),
        "precision": "single" if found.links.dtype == np.complex64 else "double",
        "checksum": checksum,
        "plaquette": float(plaquette),
        "link_trace": float(np.einsum("ii...->...", found.links).real.mean(dtype=np.float64) / 3),
        "distance_from_su3": deviation(found.links),
        "header": header,
    }


def render(document: dict[str, Any]) -> str:
    """The description for people."""
    extents = "x".join(map(str, document["lattice"]))
    checksum = f"{document['checksum']}, verified" if document["checksum"] else "none stated, so the links are not verified"
    lines = [
        f"{document['file']}: SU(3) configuration, {document['format'].upper()}",
        f"  lattice     {extents} (t, x, y, z), {document['precision']} precision",
        f"  checksum    {checksum}",
        f"  plaquette   {document['plaquette']:.10g}",
        f"  link trace  {document['link_trace']:.10g}",
        f"  from SU(3)  {document['distance_from_su3']:.1e}",
    ]
    header = document["header"]
    shown = header["records"] if document["format"] == "ildg" else [f"{key} = {value}" for key, value in header.items()]
    return "\n".join([*lines, "  header      " + ", ".join(shown)])


def convert(
    source: Path,
    destination: Path,
    format: str | None = None,
    precision: str | None = None,
    rows: int | None = None,
    reunitarise: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Write a configuration in another format or precision; unchanged, the file is the same bit for bit.

    Without `format` the name decides: .lime and .ildg are ILDG, .nersc and names that end in a number NERSC, and another
    name keeps the format. Raises LatflowError for what cannot be, FileError for problems with the files.
    """
    from latflow.io.configuration import format_of, read_configuration, write_configuration

    if destination.exists() and not force:
        raise LatflowError(f"{destination} exists already", "choose another name, or overwrite it by --force")
    suffix = destination.suffix.lower().removeprefix(".")
    if format is None:
        named = "ildg" if suffix in ("lime", "ildg") else "nersc" if suffix == "nersc" or suffix.isdigit() else None
        format = named or format_of(source)
    if format not in ("nersc", "ildg"):
        raise LatflowError(f"there is no format {format!r}", "known are nersc and ildg")
    if precision not in (None, "single", "double"):
        raise LatflowError(f"there is no precision {precision!r}", "known are single and double")
    found = read_configuration(source, reunitarise=reunitarise)
    try:
        write_configuration(
            destination,
            found,
            format=format,  # type: ignore[arg-type]
            bits={None: None, "single": 32, "double": 64}[precision],
            rows=rows,
        )
    except ValueError as error:
        raise LatflowError(f"{source} cannot be converted: {error}") from error
    return {"from": str(source), "to": str(destination), "format": format, "lattice": list(found.lattice)}


def measure(
    paths: Sequence[Path], names: Sequence[str] | None = None, reunitarise: bool = False, note: Any = None
) -> dict[str, Any]:
    """Observables of configurations of one lattice, in the order given, with errors by the Gamma method from five files on.

    Raises LatflowError for files of different lattices and unknown observables, FileError for damaged files.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from latflow.groups import SUN
    from latflow.io.configuration import read_configuration
    from latflow.lattice import Geometry
    from latflow.observables import applicable, find
    from latflow.statistics import estimate

    first = read_configuration(paths[0], reunitarise=reunitarise)
    group, geometry = SUN(3), Geometry(first.lattice)
    chosen = tuple(names or [name for name in applicable(group, geometry) if name != "action_density"])
    try:
        wanted = {name: find(name) for name in chosen}
    except ValueError as error:
        raise LatflowError(str(error)) from error
    if unfit := [name for name, o in wanted.items() if not o.applies(group, geometry)]:
        raise LatflowError(f"{unfit[0]} exists for {wanted[unfit[0]].condition}, not for these files")
    function = jax.jit(lambda u: {name: o.evaluate(group, geometry, u) for name, o in wanted.items()})
    series = []
    for i, path in enumerate(paths):
        found = first if i == 0 else read_configuration(path, reunitarise=reunitarise)
        if found.lattice != first.lattice:
            raise LatflowError(
                f"{paths[0]} is of the lattice {first.lattice} and {path} of {found.lattice}", "measure them separately"
            )
        series.append({name: np.asarray(value, np.float64) for name, value in function(jnp.asarray(found.links)).items()})
        if note is not None:
            note(i + 1, len(paths))
    rows: dict[str, Any] = {}
    for name in chosen:
        values = np.stack([row[name] for row in series])
        if len(paths) >= _FEWEST:
            result = estimate(values)
            rows[name] = {"value": result.value, "error": result.error, "tau_int": result.tau_int}
        else:
            rows[name] = {"value": values.mean(0), "error": None, "tau_int": None}
        rows[name]["values"] = values
    return {
        "files": [str(path) for path in paths],
        "lattice": list(first.lattice),
        "errors": "Gamma method" if len(paths) >= _FEWEST else f"none: they need {_FEWEST} configurations or more",
        "observables": rows,
    }


def render_measurements(document: dict[str, Any]) -> str:
    """The table for people."""
    width = max(map(len, document["observables"]))
    extents = "x".join(map(str, document["lattice"]))
    lines = [f"{len(document['files'])} configuration(s) of {extents}, errors: {document['errors']}"]
    for name, row in document["observables"].items():
        error = "" if row["error"] is None else f" +- {row['error']:.2g}, tau_int {row['tau_int']:.2f}"
        lines.append(f"  {name:<{width}}  {float(row['value']):.8g}{error}")
    return "\n".join(lines)
