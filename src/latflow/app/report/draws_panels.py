"""What pseudofermion draws bring: the effective sample size against their number, with the fit of Eq. (45) of 2207.08945."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from latflow.app.report.drawing import EXACT, FLOW, INK, Panel, canvas
from latflow.app.report.numbers import finite, percent, significant, uncertain
from latflow.app.report.run_data import RunData, section


def draws_panels(run: RunData) -> list[Panel]:
    """The curve of a joint ensemble; empty for others."""
    found = section(run.summary, "pseudofermions")
    return [curve(found)] if found.get("curve") else []


def curve(found: Mapping[str, Any], slug: str = "draws") -> Panel:
    """ESS against 1 / N_pf of the "pseudofermions" part of a summary."""
    points = [(1 / p["draws"], p["ess"], p["error"]) for p in found["curve"]]
    x, y, error = np.array(points).T
    fit, marginal = found.get("fit"), found.get("marginal_ess")
    tops = [float(np.max(y + error)), *([marginal["value"]] if marginal else []), *([fit["ess"]] if fit else [])]
    with canvas("1 / draws per monomial and configuration", "effective sample size") as drawing:
        if fit:
            line = np.linspace(0.0, 1.05, 200)
            drawing.axes.plot(line, fit["ess"] / (1 + max(fit["C"], 0.0) * line), color=INK, linewidth=1.0, alpha=0.6)
        drawing.axes.errorbar(x, y, error, color=FLOW, fmt="o", markersize=4, elinewidth=1.2)
        if marginal:
            drawing.axes.errorbar(
                [0.0], [marginal["value"]], [marginal["error"]], color=EXACT, fmt="^", markersize=7, elinewidth=1.2
            )
        drawing.axes.set_xlim(-0.03, 1.05)
        drawing.axes.set_ylim(0.0, min(1.06 * max(tops), 1.05))
        svg = drawing.svg(slug)
    caption = "Each point averages over disjoint sets of the draws that were made."
    if fit:
        caption += (
            f" Line: ESS(∞) / (1 + C / draws) with ESS(∞) = {uncertain(fit['ess'], fit['ess_error'])}, "
            f"C = {significant(fit['C'], 2)}."
        )
    if marginal:
        caption += f" Triangle: with the exact determinant, {uncertain(marginal['value'], marginal['error'])}."
    return Panel(slug, "Draws of pseudofermions", svg, f"Effective sample size against one over the draws. {caption}", caption)


def monomial_rows(run: RunData) -> list[dict[str, str]]:
    """One row per monomial: what its conditional flow leaves of the spectrum of its action."""
    stage = section(section(run.provenance, "stages"), "sample")
    rows = []
    for found in stage.get("spectra") or []:
        light, heavy = "det M" if found["mu"] == 0 else f"det(M + {found['mu']:g})", found.get("heavier")
        bad = finite(found.get("infinite_variance")) or 0.0
        rows.append(
            {
                "Monomial": light if heavy is None else f"{light} / det(M + {heavy:g})",
                "Condition number": significant(found.get("condition"), 3),
                "Eigenvalues": f"{significant(found.get('smallest'), 2)} to {significant(found.get('largest'), 2)}",
                "ESS of one draw": significant(found.get("ess"), 2),
                "Infinite variance": "none" if not bad else percent(bad),
            }
        )
    return rows
