"""The words of the page: what the theory is, what the run achieved, how to make it again."""

# ruff: noqa: RUF001  (the page is typeset: true minus signs, dashes and Greek letters)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from latflow.app.report.comparison import flow_label
from latflow.app.report.numbers import alongside, baseline_label, count, duration, finite, minus, percent, uncertain
from latflow.app.report.run_data import RunData, section
from latflow.app.report.series import stuck_stretches

_NO_BREAK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Headline:
    """One of the large numbers at the top of the page."""

    name: str
    value: str
    note: str


def theory(run: RunData) -> str:
    """`U(1) gauge theory in 2 dimensions, 8 × 8, β = 2`."""
    table = section(run.config, "theory") or section(run.summary, "theory")
    lattice = table.get("lattice")
    if not isinstance(lattice, list) or not lattice:
        named = run.summary.get("theory")
        return named if isinstance(named, str) else "theory not recorded"
    names = {"u1": "U(1) gauge theory", "sun": f"SU({table.get('Nc', 'N')}) gauge theory", "phi4": "φ⁴ theory"}
    shape = _NO_BREAK.join(" × ".join(str(extent) for extent in lattice).split(" "))
    couplings = [("beta", "β"), ("m2", "m²"), ("kappa", "κ"), ("lam", "λ")]
    values = [
        minus(f"{symbol}{_NO_BREAK}={_NO_BREAK}{table[key]:g}")
        for key, symbol in couplings
        if finite(table.get(key)) is not None
    ]
    kind = names.get(str(table.get("kind")), str(table.get("kind")))
    values += _fermions(section(run.config, "fermions") or section(table, "fermions"))
    return ", ".join([f"{kind} in {len(lattice)} dimension{'s' if len(lattice) > 1 else ''}", shape, *values])


def _fermions(table: dict[str, Any]) -> list[str]:
    """["N_f = 2", "κ = 0.265"]; empty without fermions."""
    if not table or table.get("kind") == "none":
        return []
    symbols = [("flavours", "Nf"), ("kappa", "κ"), ("csw", "c_sw"), ("mass", "m"), ("g", "g")]
    kinds = {"wilson-yukawa": "Wilson fermions", "staggered-yukawa": "staggered fermions"}
    found = [kinds[table["kind"]]] if table.get("kind") in kinds else []
    for key, symbol in symbols:
        if finite(table.get(key)) is not None:
            found.append(minus(f"{symbol}{_NO_BREAK}={_NO_BREAK}{table[key]:g}"))
    return found


def headlines(run: RunData) -> list[Headline]:
    """ESS, acceptance, log Z and cost, each with what is needed to judge it."""
    found = []
    ess = section(run.summary, "ess")
    if finite(ess.get("value")) is not None:
        alone = section(run.summary, "ess_prior")
        without = f", {uncertain(alone['value'], alone.get('error'))} without the flow" if alone else ""
        note = f"of {count(ess.get('samples'))} proposals{without}"
        found.append(Headline("Effective sample size", uncertain(ess["value"], ess.get("error")), note))
    if finite(run.summary.get("acceptance")) is not None:
        found.append(Headline("Acceptance", percent(run.summary["acceptance"]), _stuck(run)))
    log_z = section(run.summary, "log_z")
    if finite(log_z.get("value")) is not None:
        exact = finite(log_z.get("exact"))
        note = "no closed form known" if exact is None else f"exact {alongside(exact, log_z.get('error'))}"
        name = "log Z / Z₀" if section(run.summary, "prior") else "log Z"
        found.append(Headline(name, uncertain(log_z["value"], log_z.get("error")), note))
    stages = [run.seconds(stage) for stage in ("prior", "train", "sample")]
    if any(stage is not None for stage in stages):
        baseline = run.seconds("baseline")
        note = f"{baseline_label(run.baseline_kind)} took {duration(baseline)}" if baseline else "no baseline so far"
        found.append(Headline(f"Total cost of the {flow_label(run)}", duration(sum(stage or 0.0 for stage in stages)), note))
    return found


def _stuck(run: RunData) -> str:
    if run.flow is None or run.flow.accepted is None or not run.flow.accepted.size:
        return "independence Metropolis"
    longest = _longest(run.flow.accepted)
    return f"stuck for at most {count(longest)} steps" if longest else "never stuck"


def _longest(accepted: np.ndarray) -> int:
    stretches = stuck_stretches(accepted)
    return int(stretches.max()) if stretches.size else 0


def notices(run: RunData) -> list[str]:
    """Sentences about what is missing because the run is unfinished or a file is damaged."""
    found = list(run.problems)
    if prior := section(run.summary, "prior"):
        found.append(
            f"The flow maps a stored ensemble at β = {prior.get('beta'):g}, each configuration once. Estimates are reweighted "
            "along its Markov chains; Z₀ is the partition function there. The Metropolis chain only shows the acceptance."
        )
    if tuned := section(run.summary, "tuned_prior"):
        found.append(_tuned(tuned))
    failures = section(run.summary, "baseline").get("solver_failures")
    if finite(failures):
        found.append(
            f"On {count(failures)} trajectories of the baseline a linear solve did not converge; they were rejected. If these "
            "are many, raise baseline.max_iterations, or the mass."
        )
    if section(run.config, "flow").get("kind") == "none":
        found.append("This run has no flow: it is a reference ensemble of the baseline alone.")
    elif run.flow is None:
        found.append("No ensemble has been drawn yet: this page shows the training only. Finish the run with --resume.")
    elif run.flow.chain_index is None:
        found.append("The ensemble is unfinished: its Metropolis chain has not been formed yet. Finish the run with --resume.")
    elif prior:
        pass  # nothing is estimated from the Metropolis chain
    elif run.flow.accepted is not None and (share := _longest(run.flow.accepted) / max(run.flow.accepted.size, 1)) > 0.01:
        found.append(
            f"The chain sat on one configuration for {percent(share)} of its length, so its errors may be understated. "
            "A longer training, or more samples, would help."
        )
    if run.flow is not None and run.flow.chain_index is not None and not run.summary:
        found.append("The comparison has not been made yet, so the tables are missing. Finish the run with --resume.")
    return found


def _tuned(tuned: dict[str, Any]) -> str:
    beta = f"The prior is the exactly drawn pure gauge theory at β = {tuned.get('beta'):.4g}"
    if finite(tuned.get("acceptance")) is None:
        return f"{beta}, where its effective sample size is largest."
    return (
        f"{beta}. A function of its loops, learned from determinants, keeps {percent(tuned['acceptance'])} of the draws; "
        f"without it the effective sample size would be {tuned['ess_before']:.2f}, and every draw would need a determinant."
    )


def reproduce(run: RunData) -> list[tuple[str, str]]:
    """(explanation, command) pairs; the resolved configuration holds every setting and the seed."""
    name = run.directory.name
    config = f"{name}/config.toml"
    found = [
        (
            "Everything, from this run’s resolved configuration and seed, started beside the run directory:",
            f"latflow run {config} --out {name}-again",
        )
    ]
    command = run.provenance.get("command")
    if isinstance(command, list):
        command = " ".join(str(part) for part in command)
    if isinstance(command, str) and command:
        found.append(("This run was made by:", command))
    found.append(("This page alone, from the files already there:", f"latflow report {name}"))
    return found


def flattened(table: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested tables as (dotted key, value) pairs."""
    rows: list[tuple[str, str]] = []
    for key, value in table.items():
        if not prefix and key in ("stages", "sessions", "command"):  # shown elsewhere, or of interest to machines only
            continue
        path = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, dict):
            rows += flattened(value, path)
        else:
            rows.append((path, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return rows


def samplers(run: RunData) -> tuple[str, str]:
    """Names of the two samplers for legends and table heads."""
    return flow_label(run), baseline_label(run.baseline_kind)
