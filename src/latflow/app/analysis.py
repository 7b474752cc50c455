"""From files to numbers with errors: the exact chain, reweighting and the baseline, side by side with what is known exactly.

Everything that was measured gets its error from the Gamma method; `observables.json` holds the chain's observables in the
format of pyerrors, and beside them the summary that the command line prints and the report shows.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from latflow.actions import AbstractAction
from latflow.app import build
from latflow.app.config import Config
from latflow.app.output import plain
from latflow.errors import LatflowError
from latflow.exact import exact_values
from latflow.io.atomic import write_text
from latflow.io.ensemble import EnsembleFile
from latflow.observables import derived
from latflow.samplers import log_weights
from latflow.statistics import Estimate, ess_with_error, log_z, observable, summary

_EXPORTED_BINS = 1024
_FEWEST = 100.0  # effective proposals below which an error estimate is itself unreliable
_MOST_AUDIT = 1e-2  # nats between log q forward and backward, the default of sample.max_audit
_INDEPENDENT = 0.0  # the window parameter that declares draws independent


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Estimates from one sampler: by name an `Estimate`, or nested lists of them; and the same as Obs, for export."""

    estimates: dict[str, Any]
    exported: dict[str, Any]


def weights_summary(file: EnsembleFile, action: AbstractAction) -> dict[str, Any]:
    """ESS, acceptance and log Z of the proposals in an ensemble file."""
    log_weight = usable(log_weights(file))
    ess, ess_error = ess_with_error(log_weight)
    value, error = log_z(log_weight)
    known = exact_values(action.group, action.geometry, (), **build.couplings(action)).get("log_z")
    unusable = int(np.sum(np.isneginf(log_weight)))
    audit = float(file.read("audit").max()) if "audit" in file.columns else None
    return plain(
        {
            **({} if audit is None else {"audit": audit}),
            "ess": {"value": ess, "error": ess_error, "samples": log_weight.size},
            "acceptance": float(file.read("accepted").mean()),
            "log_z": {"value": value, "error": error, "exact": known},
            "warnings": list(_warnings(ess * log_weight.size, log_weight.size, unusable, audit)),
        }
    )


def _warnings(effective: float, proposals: int, unusable: int, audit: float | None) -> Iterator[str]:
    if effective < _FEWEST:
        yield (
            f"only {effective:.1f} of {proposals} proposals are effective: neither values nor errors of the flow can be "
            "trusted; train longer, with another flow, or from a nearer prior"
        )
    if audit is not None and not audit <= _MOST_AUDIT:
        yield (
            f"log q forward and backward differ by up to {audit:.2g} nats: the weights carry an integration error of that "
            "size; raise sample.refine"
        )
    if unusable:
        yield f"{unusable} of {proposals} proposals had no finite weight; they count with weight zero"


def usable(log_weight: np.ndarray) -> np.ndarray:
    """Log weights with those of failed proposals (NaN, +inf) at -inf: they count as proposals of weight zero."""
    return np.where(np.isfinite(log_weight), log_weight, -np.inf)


def flow_chain(file: EnsembleFile, action: AbstractAction) -> tuple[Sampled, Sampled]:
    """(the Metropolis chain, reweighting) of an ensemble file."""
    log_weight, index = usable(log_weights(file)), file.read("chain_index")
    series = _measured(file)
    chain = {name: values[index] for name, values in series.items()}
    # a proposal of weight zero must not contribute, whatever was measured on it
    ones = np.isfinite(log_weight)
    finite = {name: np.where(ones.reshape(-1, *(1,) * (v.ndim - 1)), v, 0.0) for name, v in series.items()}
    by_chain = _sampled(action, {k: v[:, None] for k, v in chain.items()}, "flow")
    by_weight = _sampled(action, {k: v[:, None] for k, v in finite.items()}, "proposals", log_weight[:, None])
    return by_chain, by_weight


def baseline_chain(file: EnsembleFile, action: AbstractAction) -> Sampled:
    """The baseline's chains."""
    return _sampled(action, _measured(file), "baseline")


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What the ensemble file gives, kept so that adding the baseline does not repeat it."""

    head: dict[str, Any]
    chain: Sampled
    weighted: Sampled


def analyse(ensemble: Path, action: AbstractAction) -> Analysis:
    """Weights, chain and reweighted estimates of an ensemble file. Raises LatflowError for measurements without meaning."""
    with EnsembleFile.open(ensemble) as file, _explained():
        return Analysis(weights_summary(file, action), *flow_chain(file, action))


def summarise(
    base: Mapping[str, Any], found: Analysis, config: Config, action: AbstractAction, baseline: Path | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(summary, {name: Obs}) of a run; `baseline` is its chain file, None where there is none yet. Raises as `analyse`."""
    chain = found.chain
    exact = exact_values(action.group, action.geometry, tuple(chain.estimates), **build.couplings(action))
    rows: dict[str, Any] = {}
    for name, estimates in chain.estimates.items():
        rows[name] = {**_columns(estimates, "value", "error", "tau_int"), "exact": exact.get(name)}
        rows[name]["reweighted"] = _columns(found.weighted.estimates[name], "value", "error")
    result: dict[str, Any] = {**base, **found.head, "observables": rows}
    exported = {f"flow/{name}": obs for name, obs in chain.exported.items()}
    if baseline is not None:
        with EnsembleFile.open(baseline) as file, _explained():
            reference = baseline_chain(file, action)
            acceptance = float(file.read("acceptance").mean())
        columns = {name: _columns(e, "value", "error", "tau_int") for name, e in reference.estimates.items()}
        for name, row in rows.items():
            row["baseline"] = columns[name]
        result["baseline"] = {"kind": config.baseline.kind, "acceptance": acceptance, "observables": columns}
        exported |= {f"baseline/{name}": obs for name, obs in reference.exported.items()}
    return plain(result), exported


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise LatflowError(f"the measurements cannot be analysed: {error}", "look at the run with `latflow inspect`") from error


def write_observables(path: Path, result: dict[str, Any], exported: Mapping[str, Any]) -> None:
    """`observables.json`: readable by `pyerrors.input.json.load_json(path, gz=False)`, our summary in its description."""
    import pyerrors as pe

    names, quantities = [], []
    for name, obs in exported.items():
        array = obs if isinstance(obs, np.ndarray) else np.full((), obs, dtype=object)
        for index, item in np.ndenumerate(array):
            if item is not None:
                item.tag = name + "".join(f"[{i}]" for i in index)
                names.append(item.tag)
                quantities.append(item)
    description: Any = {"latflow": plain(result), "names": names}
    text = pe.input.json.create_json_string(quantities, description, indent=1)
    write_text(path, text)


def read_observables(path: Path) -> dict[str, Any]:
    """The summary in `observables.json`. Raises LatflowError if it is missing or damaged."""
    try:
        return json.loads(path.read_text("utf-8"))["description"]["latflow"]
    except FileNotFoundError as error:
        raise LatflowError(f"{path} does not exist", f"run `latflow measure {path.parent}` first") from error
    except (ValueError, KeyError, TypeError) as error:
        raise LatflowError(f"{path} is damaged", f"delete it and run `latflow measure {path.parent}`") from error


def _measured(file: EnsembleFile) -> dict[str, np.ndarray]:
    prefix = "measurements/"
    return {name.removeprefix(prefix): file.read(name) for name in file.columns if name.startswith(prefix)}


def _sampled(action: AbstractAction, series: dict[str, np.ndarray], name: str, log_weight: np.ndarray | None = None) -> Sampled:
    """Means of all series (n, chains, ...) and of what derives from them."""
    window = 2.0 if log_weight is None else _INDEPENDENT
    quantities = {key: observable(values, log_weight, name) for key, values in series.items()}
    quantities |= derived(quantities, action.geometry)
    exported: dict[str, Any] = {}
    if log_weight is None:
        binned = {key: observable(_binned(values), None, name) for key, values in series.items()}
        exported = binned | derived(binned, action.geometry)
    return Sampled({key: summary(obs, window) for key, obs in quantities.items()}, exported)


def _binned(series: np.ndarray) -> np.ndarray:
    """Means over successive bins, so that what is exported stays small: (n, chains, ...) -> at most (1024, chains, ...)."""
    width = max(1, -(-series.shape[0] // _EXPORTED_BINS))
    bins = series.shape[0] // width
    if bins < 5:
        return series
    return series[: bins * width].astype(np.float64).reshape(bins, width, *series.shape[1:]).mean(1)


def _columns(estimates: Any, *names: str) -> dict[str, Any]:
    """{"value": ..., "error": ...} of an estimate, with lists where there are lists of them."""

    def pick(item: Any, name: str) -> Any:
        return getattr(item, name) if isinstance(item, Estimate) else [pick(part, name) for part in item]

    return {name: pick(estimates, name) for name in names}
