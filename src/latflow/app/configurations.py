"""Gauge configurations made by other codes: described, converted, measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latflow.errors import LatflowError

_FEWEST = 5  # configurations for an error by the Gamma method
_MOST_STEPS = 100_000  # of the gradient flow: more are a mistake


def is_file_of_links(path: Path | str) -> bool:
    """Whether to treat a path of the command line as a configuration: any file but those that describe a run."""
    return Path(path).is_file() and Path(path).suffix != ".toml"


def double_precision() -> None:
    """Files hold up to 64 bits, and nothing here is worth saving time on."""
    import jax

    jax.config.update("jax_enable_x64", True)


def describe(path: Path, reunitarise: bool = False, note: Any = None) -> dict[str, Any]:
    """The configuration in a file as a JSON document; `note` is told how many of how many time slices were read.

    Raises FileError for damage, naming what disagrees.
    """
    import numpy as np

    from latflow.io.configuration import NerscFile, open_configuration
    from latflow.io.slices import read_stream

    with open_configuration(path) as file:
        links = read_stream(file, claims=True, reunitarise=reunitarise, note=note)
        for _ in links.slices:
            pass
    sums = links.sums()
    header: dict[str, Any] = {}
    if isinstance(file, NerscFile):
        checksum: str | None = file.header["CHECKSUM"]
        header = dict(file.header)
    else:
        checksum = None if file.checksum is None else f"{file.checksum[0]:x} {file.checksum[1]:x}"
        header = {"records": [record.kind for record in file.records]}
    return {
        "file": str(path),
        "format": "nersc" if isinstance(file, NerscFile) else "ildg",
        "lattice": list(links.extents),
        "precision": "single" if links.dtype == np.complex64 else "double",
        "checksum": checksum,
        "plaquette": sums.plaquette,
        "link_trace": sums.link_trace,
        "distance_from_su3": sums.deviation,
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
    note: Any = None,
) -> dict[str, Any]:
    """Write a configuration in another format or precision; unchanged, the file is the same bit for bit. `note` is told how
    many of how many time slices are done.

    Without `format` the name decides: .lime and .ildg are ILDG, .nersc and names that end in a number NERSC, and another
    name keeps the format. Raises LatflowError for what cannot be, FileError for problems with the files.
    """
    from latflow.io.configuration import convert_configuration, format_of

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
    try:
        extents = convert_configuration(
            source,
            destination,
            format=format,  # type: ignore[arg-type]
            bits={None: None, "single": 32, "double": 64}[precision],
            rows=rows,
            reunitarise=reunitarise,
            note=note,
        )
    except ValueError as error:
        raise LatflowError(f"{source} cannot be converted: {error}") from error
    return {"from": str(source), "to": str(destination), "format": format, "lattice": list(extents)}


def measure(
    paths: Sequence[Path],
    names: Sequence[str] | None = None,
    reunitarise: bool = False,
    note: Any = None,
    gradient_flow: Any = None,
) -> dict[str, Any]:
    """Observables of configurations of one lattice, in the order given, and what derives from their means, with errors by the
    Gamma method from five files on. `gradient_flow`, an `observables.GradientFlow`, adds what is measured along it.

    Raises LatflowError for files of different lattices and unknown observables, FileError for damaged files.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from latflow.groups import SUN
    from latflow.io.configuration import read_configuration
    from latflow.lattice import Geometry
    from latflow.observables import applicable, find

    first = read_configuration(paths[0], reunitarise=reunitarise)
    group, geometry = SUN(3), Geometry(first.lattice)
    chosen = tuple(names or [name for name in applicable(group, geometry) if name != "action_density"])
    try:
        wanted = {name: find(name) for name in chosen}
    except ValueError as error:
        raise LatflowError(str(error)) from error
    if unfit := [name for name, o in wanted.items() if not o.applies(group, geometry)]:
        raise LatflowError(f"{unfit[0]} exists for {wanted[unfit[0]].condition}, not for these files")

    def function(u: Any) -> dict[str, Any]:
        along = {} if gradient_flow is None else gradient_flow.evaluate(group, geometry, u)
        return {name: o.evaluate(group, geometry, u) for name, o in wanted.items()} | along

    compiled, series = jax.jit(function), []
    for i, path in enumerate(paths):
        found = first if i == 0 else read_configuration(path, reunitarise=reunitarise)
        if found.lattice != first.lattice:
            raise LatflowError(
                f"{paths[0]} is of the lattice {first.lattice} and {path} of {found.lattice}", "measure them separately"
            )
        series.append({name: np.asarray(value, np.float64) for name, value in compiled(jnp.asarray(found.links)).items()})
        if note is not None:
            note(i + 1, len(paths))
    times = () if gradient_flow is None else gradient_flow.times
    order = [*wanted, *(name for name in series[0] if name not in wanted)]
    return {
        "files": [str(path) for path in paths],
        "lattice": list(first.lattice),
        "errors": "Gamma method" if len(paths) >= _FEWEST else f"none: they need {_FEWEST} configurations or more",
        "flow_times": list(times),
        "observables": estimates({name: np.stack([row[name] for row in series]) for name in order}, geometry, times),
    }


def estimates(series: dict[str, Any], geometry: Any, flow_times: Sequence[float]) -> dict[str, dict[str, Any]]:
    """{name: {"value", "error", "tau_int"}} of all series (files, ...) and of what derives from their means; a series keeps its
    "values" too. Without the files that errors need, there are none."""
    import jax.numpy as jnp
    import numpy as np

    from latflow.observables import derived, formulas
    from latflow.statistics import observable, summary

    if len(next(iter(series.values()))) >= _FEWEST:
        from latflow.app.analysis import columns

        quantities = {name: observable(values[:, None]) for name, values in series.items()}
        quantities |= derived(quantities, geometry, flow_times)
        rows = {name: columns(summary(obs), "value", "error", "tau_int") for name, obs in quantities.items()}
    else:
        means = {name: jnp.asarray(values.mean(0)) for name, values in series.items()}
        found = formulas(means.keys(), geometry, flow_times)
        found.pop("polyakov_susceptibility", None)  # a variance over so few, or over one, says nothing
        means |= {name: function(*(means[key] for key in keys)) for name, (function, keys) in found.items()}
        rows = {name: {"value": np.asarray(mean), "error": None, "tau_int": None} for name, mean in means.items()}
    return {name: {**row, **({"values": series[name]} if name in series else {})} for name, row in rows.items()}


def flow_through(to: float | None, every: float | None = None, step: float | None = None) -> Any:
    """The `observables.GradientFlow` that measures every `every` (0.1) up to the flow time `to`, with steps of at most `step`
    (0.02); None without `to`. Raises LatflowError for numbers that are not positive, or that need `to`."""
    from latflow.observables import GradientFlow

    for option, number in (("--flow-to", to), ("--flow-every", every), ("--flow-step", step)):
        if number is not None and not (number > 0 and math.isfinite(number)):
            raise LatflowError(f"{option} must be positive, got {number:g}")
        if number is not None and to is None:
            raise LatflowError(f"{option} needs --flow-to, the flow time up to which to measure")
    if to is None:
        return None
    every, step = every or 0.1, step or 0.02
    if to > _MOST_STEPS * min(every, step):
        raise LatflowError(f"up to the flow time {to:g} there are more than {_MOST_STEPS} steps", "choose longer ones")
    between = range(1, math.ceil(to / every * (1 - 1e-12)))
    return GradientFlow((*(round(every * k, 12) for k in between), to), step)


def render_measurements(document: dict[str, Any]) -> str:
    """The table for people: scalars, and of vectors along the gradient flow the last entry."""
    times = document["flow_times"]
    lines = []
    for name, row in document["observables"].items():
        value, error, tau_int = (
            column[-1] if getattr(column, "ndim", isinstance(column, list)) else column
            for column in (row["value"], row["error"], row["tau_int"])
        )
        label = f"{name} at t = {times[-1]:g}" if name.startswith("flow_") else name
        spread = "" if error is None else f" +- {error:.2g}, tau_int {tau_int:.2f}"
        lines.append((label, f"{float(value):.8g}{spread}" if math.isfinite(value) else "undefined"))
    width = max(len(label) for label, _ in lines)
    extents = "x".join(map(str, document["lattice"]))
    head = f"{len(document['files'])} configuration(s) of {extents}, errors: {document['errors']}"
    return "\n".join([head, *(f"  {label:<{width}}  {text}" for label, text in lines)])
