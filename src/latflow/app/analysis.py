"""From files to numbers with errors: the exact chain, reweighting and the baseline, side by side with what is known exactly.

Everything that was measured gets its error from the Gamma method; `observables.json` holds the chain's observables in the
format of pyerrors, and beside them the summary that the command line prints and the report shows.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from latflow.actions import AbstractAction
from latflow.app import builders
from latflow.app.config import Config
from latflow.app.correlators import pion_mass
from latflow.app.output import plain
from latflow.errors import LatflowError
from latflow.io.atomic import write_text
from latflow.io.ensemble import EnsembleFile
from latflow.observables import derived
from latflow.samplers import log_weights
from latflow.statistics import (
    Estimate,
    derived_observable,
    ess_of_draws,
    ess_with_error,
    fit_draws,
    log_z,
    normalised_weights,
    observable,
    summary,
)
from latflow.statistics.draws import averaged

_EXPORTED_BINS = 1024
_FEWEST = 100.0  # effective proposals below which an error estimate is itself unreliable
_HEAVY = 0.1  # share of the weight that a single proposal should not carry
_MOST_AUDIT = 1e-2  # nats between log q forward and backward, the default of sample.max_audit
_INDEPENDENT = 0.0  # the window parameter that declares draws independent
_UNKNOWN = {"value": None, "error": None, "tau_int": None}  # of an observable that could not be measured
_GAMMA = 2.0  # that of Wolff's Eq. (51) otherwise


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Estimates from one sampler: by name an `Estimate`, or nested lists of them; the same as Obs, for export; and how many
    measurements of each observable that has no estimate for that reason are not finite."""

    estimates: dict[str, Any]
    exported: dict[str, Any]
    failed: dict[str, int] = dataclasses.field(default_factory=dict)


def weights_summary(file: EnsembleFile, action: AbstractAction) -> dict[str, Any]:
    """ESS, acceptance and log Z of the proposals in an ensemble file; for a stored prior log(Z / Z_prior), errors that respect
    the autocorrelation of its chains, and the ESS of reweighting it without the flow."""
    log_weight = usable(log_weights(file))
    ess, ess_error = ess_with_error(log_weight)
    value, error = log_z(log_weight)
    known = _known_log_z(action)
    extra: dict[str, Any] = {}
    if (prior := _stored_prior(file)) is not None:
        ess_error, error = _chain_errors(log_weight, prior["chains"])
        reference = _known_log_z(builders.at_coupling(action, prior["beta"]))
        known = None if known is None or reference is None else known - reference
        alone, alone_error = ess_with_error(usable(file.read("log_weight_prior")))
        extra = {"prior": prior, "ess_prior": {"value": alone, "error": alone_error}}
    if (tuned := (file.metadata or {}).get("tuned")) is not None:
        # the normalisation of a resampled prior is an estimate itself
        error = math.hypot(error, tuned["log_acceptance_error"])
        extra["tuned_prior"] = tuned
    if "log_det_estimates" in file.columns:
        extra["pseudofermions"] = _pseudofermions(file, log_weight)
    unusable = int(np.sum(np.isneginf(log_weight)))
    heaviest = float(normalised_weights(log_weight).max() / log_weight.size)
    audit = float(file.read("audit").max()) if "audit" in file.columns else None
    return plain(
        {
            **({} if audit is None else {"audit": audit}),
            "ess": {"value": ess, "error": ess_error, "samples": log_weight.size},
            "acceptance": float(file.read("accepted").mean()),
            "log_z": {"value": value, "error": error, "exact": known},
            **extra,
            "warnings": [
                *_warnings(ess * log_weight.size, log_weight.size, unusable, audit, heaviest),
                *_pseudofermion_warnings(extra.get("pseudofermions"), file),
            ],
        }
    )


def _pseudofermions(file: EnsembleFile, log_weight: np.ndarray) -> dict[str, Any]:
    """Of a joint ensemble: ESS as a function of the number of draws with the fit of Eq. (45) of 2207.08945, the marginal ESS
    where the exact determinants were computed, failed solves, and the iterations they took."""
    estimates, log_q = file.read("log_det_estimates"), file.read("log_q")
    rest = log_weight - np.nan_to_num(averaged(estimates, np.arange(estimates.shape[2])), nan=0.0)
    curve, iterations = ess_of_draws(rest, estimates), file.read("iterations")
    fit = fit_draws(curve)
    found: dict[str, Any] = {
        "draws": estimates.shape[2],
        "monomials": estimates.shape[1],
        "curve": [point._asdict() for point in curve],
        "fit": None if fit is None else fit._asdict(),
        "failed": int(np.sum(~np.isfinite(estimates))),
        "iterations": {"mean": float(iterations.mean()), "largest": int(iterations.max())},
    }
    if "marginal_action" in file.columns:
        exact = usable(-file.read("marginal_action") - log_q)
        value, error = ess_with_error(exact)
        found["marginal_ess"] = {"value": value, "error": error}
    return found


def _warnings(effective: float, proposals: int, unusable: int, audit: float | None, heaviest: float = 0.0) -> Iterator[str]:
    if heaviest > _HEAVY:
        yield f"one of {proposals} proposals carries {heaviest:.0%} of the weight: the effective sample size cannot be trusted"
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


def _pseudofermion_warnings(found: Mapping[str, Any] | None, file: EnsembleFile) -> Iterator[str]:
    if found and found["failed"]:
        yield (
            f"{found['failed']} solves for pseudofermions did not converge; their proposals count with weight zero, which "
            "biases: raise pseudofermions.max_iterations"
        )
    worst = max((m["infinite_variance"] for m in (file.metadata or {}).get("spectra") or ()), default=0.0)
    if worst > 0:
        yield (
            f"for {worst:.0%} of the gauge fields an eigenvalue of A is below 1/2 and a draw of pseudofermions has infinite "
            "variance: the effective sample size cannot be trusted; raise pseudofermions.reach, add a mass to "
            "pseudofermions.hasenbusch, or train longer"
        )


def _known_log_z(action: AbstractAction) -> float | None:
    known = builders.known_values(action).get("log_z")
    return None if known is None else float(known)


def _stored_prior(file: EnsembleFile) -> dict[str, Any] | None:
    """What the sample stage noted of a stored prior: {"kind", "beta", "chains"}."""
    return (file.metadata or {}).get("prior")


def _chain_errors(log_weight: np.ndarray, chains: int) -> tuple[float, float]:
    """Errors of (ESS, log Z) by the Gamma method: weights in rows of one configuration of every chain."""
    weight = normalised_weights(log_weight).reshape(-1, chains)
    first, second = observable(weight, None, "weights"), observable(weight**2, None, "weights")
    return summary(derived_observable(lambda w, w2: w**2 / w2, [first, second])).error, summary(first).error


def usable(log_weight: np.ndarray) -> np.ndarray:
    """Log weights with those of failed proposals (NaN, +inf) at -inf: they count as proposals of weight zero."""
    return np.where(np.isfinite(log_weight), log_weight, -np.inf)


def flow_chain(file: EnsembleFile, config: Config, action: AbstractAction) -> tuple[Sampled, Sampled]:
    """(the Metropolis chain, reweighting) of an ensemble file.

    Proposals from a stored prior are correlated, and the Metropolis chain would neither be exact nor know of it: there, both
    are reweighting, with the Gamma method along the chains of the prior.
    """
    log_weight, index = usable(log_weights(file)), file.read("chain_index")
    series = _measured(file)
    chain = {name: values[index] for name, values in series.items()}
    # a proposal of weight zero must not contribute, whatever was measured on it
    ones = np.isfinite(log_weight)
    finite = {name: np.where(ones.reshape(-1, *(1,) * (v.ndim - 1)), v, 0.0) for name, v in series.items()}
    if (prior := _stored_prior(file)) is not None:
        rows = (-1, prior["chains"])
        along = {name: v.reshape(*rows, *v.shape[1:]) for name, v in finite.items()}
        weighted = _sampled(config, action, along, "flow", log_weight.reshape(rows), window=_GAMMA)
        return weighted, weighted
    by_chain = _sampled(config, action, {k: v[:, None] for k, v in chain.items()}, "flow")
    by_weight = _sampled(config, action, {k: v[:, None] for k, v in finite.items()}, "proposals", log_weight[:, None])
    return by_chain, by_weight


def baseline_chain(file: EnsembleFile, config: Config, action: AbstractAction) -> Sampled:
    """The baseline's chains."""
    return _sampled(config, action, _measured(file), "baseline")


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What the ensemble file gives, kept so that adding the baseline does not repeat it."""

    head: dict[str, Any]
    chain: Sampled
    weighted: Sampled


def analyse(ensemble: Path, config: Config, action: AbstractAction) -> Analysis:
    """Weights, chain and reweighted estimates of an ensemble file. Raises LatflowError for measurements without meaning."""
    with EnsembleFile.open(ensemble) as file, _explained():
        return Analysis(weights_summary(file, action), *flow_chain(file, config, action))


def summarise(
    base: Mapping[str, Any], found: Analysis, config: Config, action: AbstractAction, baseline: Path | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(summary, {name: Obs}) of a run; `baseline` is its chain file, None where there is none yet. Raises as `analyse`."""
    chain = found.chain
    exact = builders.known_values(action, tuple(chain.estimates))
    rows: dict[str, Any] = {}
    for name, estimates in chain.estimates.items():
        rows[name] = {**columns(estimates, "value", "error", "tau_int"), "exact": exact.get(name)}
        other = found.weighted.estimates.get(name)
        rows[name]["reweighted"] = _UNKNOWN if other is None else columns(other, "value", "error")
    result: dict[str, Any] = {**base, **found.head, "observables": rows}
    failed = found.chain.failed | found.weighted.failed
    exported = {f"flow/{name}": obs for name, obs in chain.exported.items()}
    if baseline is not None:
        with EnsembleFile.open(baseline) as file, _explained():
            reference = baseline_chain(file, config, action)
            facts = _chain_facts(file, config.baseline.kind)
        theirs = {name: columns(e, "value", "error", "tau_int") for name, e in reference.estimates.items()}
        for name, row in rows.items():
            row["baseline"] = theirs.get(name, _UNKNOWN)
        failed |= reference.failed
        result["baseline"] = {"kind": config.baseline.kind, **facts, "observables": theirs}
        exported |= {f"baseline/{name}": obs for name, obs in reference.exported.items()}
    result["warnings"] = [*result.get("warnings", ()), *_failures(failed)]
    return plain(result), exported


def _failures(failed: Mapping[str, int]) -> Iterator[str]:
    for name, number in failed.items():
        yield (
            f"{name} could not be measured on {number} configurations, where its value is not finite (a solve that did not "
            'converge): it is left out; for fermions set measure.pion = "exact" or "none"'
        )


def summarise_baseline(
    base: Mapping[str, Any], config: Config, action: AbstractAction, baseline: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(summary, {name: Obs}) of a run without a flow. Raises as `analyse`."""
    with EnsembleFile.open(baseline) as file, _explained():
        reference = baseline_chain(file, config, action)
        facts = _chain_facts(file, config.baseline.kind)
    solved = config.fermions.kind == "none"  # `action` is that of the bosons alone
    known = builders.known_values(action, tuple(reference.estimates)) if solved else {}
    rows = {
        name: {"exact": known.get(name), "baseline": columns(e, "value", "error", "tau_int")}
        for name, e in reference.estimates.items()
    }
    theirs = {name: row["baseline"] for name, row in rows.items()}
    result = {**base, "observables": rows, "baseline": {"kind": config.baseline.kind, **facts, "observables": theirs}}
    result["warnings"] = [*result.get("warnings", ()), *_failures(reference.failed)]
    return plain(result), {f"baseline/{name}": obs for name, obs in reference.exported.items()}


def _chain_facts(file: EnsembleFile, kind: str) -> dict[str, Any]:
    """Acceptance and, for HMC, <exp(-dH)>, which must be 1, over the trajectories with a finite dH; with pseudofermions, the
    linear solves."""
    facts: dict[str, Any] = {"acceptance": float(file.read("acceptance").mean())}
    if kind == "hmc":
        delta = file.read("delta_action").astype(np.float64)
        ratio = np.exp(-delta[np.isfinite(delta)])
        facts["exp_minus_dh"] = {"value": ratio.mean(), "error": ratio.std() / math.sqrt(max(ratio.size, 1))}
    rejected = int(file.read("non_finite").sum())
    if rejected:
        facts["rejected_non_finite"] = rejected
    if "solver_iterations" in file.columns:
        facts["solver_iterations"] = float(file.read("solver_iterations").mean())
        facts["solver_failures"] = int(file.read("solver_failures").sum())
    return facts


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


def _sampled(
    config: Config,
    action: AbstractAction,
    series: dict[str, np.ndarray],
    name: str,
    log_weight: np.ndarray | None = None,
    window: float | None = None,
) -> Sampled:
    """Means of all series (n, chains, ...) and of what derives from them. Weighted draws are independent unless the window
    parameter of the Gamma method is given."""
    times = config.measure.flow_times or ()
    independent = log_weight is not None and window is None
    window = _INDEPENDENT if independent else _GAMMA
    failed = {key: int(np.sum(~np.isfinite(values).reshape(*values.shape[:2], -1).all(-1))) for key, values in series.items()}
    failed = {key: number for key, number in failed.items() if number}
    series = {key: values for key, values in series.items() if key not in failed}
    quantities = _means(config, series, log_weight, name)
    quantities |= _derived(quantities, action, times)
    exported: dict[str, Any] = {} if independent else quantities
    if log_weight is None:
        binned = _means(config, {key: _binned(values) for key, values in series.items()}, None, name)
        exported = binned | _derived(binned, action, times)
    return Sampled({key: summary(obs, window) for key, obs in quantities.items()}, exported, failed)


def _means(config: Config, series: dict[str, np.ndarray], log_weight: np.ndarray | None, name: str) -> dict[str, Any]:
    """{name: Obs or array of them}. For an odd number of flavours, whose weight is |det D|, every mean is <O sign> / <sign>."""
    sign = series.get("det_sign") if config.fermions.kind != "none" and config.fermions.flavours % 2 else None
    if sign is None:
        return {key: observable(values, log_weight, name) for key, values in series.items()}
    mean_sign = observable(sign, log_weight, name)

    def reweighted(values: np.ndarray) -> Any:
        product = values * sign.reshape(*sign.shape, *[1] * (values.ndim - sign.ndim))
        return derived_observable(lambda a, b: a / b, [observable(product, log_weight, name), mean_sign])

    return {key: mean_sign if key == "det_sign" else reweighted(values) for key, values in series.items()}


def _derived(quantities: dict[str, Any], action: AbstractAction, times: tuple[float, ...]) -> dict[str, Any]:
    found = derived(quantities, action.geometry, times)
    return found | (pion_mass(quantities["pion"]) if "pion" in quantities else {})


def _binned(series: np.ndarray) -> np.ndarray:
    """Means over successive bins, so that what is exported stays small: (n, chains, ...) -> at most (1024, chains, ...)."""
    width = max(1, -(-series.shape[0] // _EXPORTED_BINS))
    bins = series.shape[0] // width
    if bins < 5:
        return series
    return series[: bins * width].astype(np.float64).reshape(bins, width, *series.shape[1:]).mean(1)


def columns(estimates: Any, *names: str) -> dict[str, Any]:
    """{"value": ..., "error": ...} of an estimate, with lists where there are lists of them."""

    def pick(item: Any, name: str) -> Any:
        return getattr(item, name) if isinstance(item, Estimate) else [pick(part, name) for part in item]

    return {name: pick(estimates, name) for name in names}
