"""The comparison as a table: flow chain, reweighted flow, baseline, exact, and how far apart they are."""

from __future__ import annotations

from typing import Any, TextIO

from latflow.app.report.numbers import alongside, count, duration, finite, label, percent, pull, sigmas, significant, uncertain

_FULL_WIDTH = 132
_HEADERS = {
    "flow": "flow chain",
    "flow tau": "tau",
    "reweighted": "reweighted",
    "baseline": "",
    "baseline tau": "tau",
    "exact": "exact",
    "to exact": "flow-exact",
    "to baseline": "flow-base",
}
_LEFT_OUT_WHEN_NARROW = ("flow tau", "reweighted", "baseline tau", "to baseline")


def print_summary(summary: dict[str, Any], stream: TextIO) -> None:
    """Write headline numbers and the observable table to `stream`, for people."""
    from rich.console import Console

    # a file or a pipe has no width of its own: leave the table whole there
    console = Console(file=stream, highlight=False, width=None if stream.isatty() else _FULL_WIDTH)
    console.print(f"\n[bold]{summary['recipe']}[/bold]  {summary.get('title', '')}")
    for line in headlines(summary):
        console.print(f"  {line}")
    if summary.get("observables"):
        console.print(_table(summary, narrow=console.width < _FULL_WIDTH))
    for warning in summary.get("warnings") or ():
        console.print(f"[yellow]Warning:[/yellow] {warning}", soft_wrap=True)
    if summary.get("report"):
        console.print(f"Report: {summary['report']}", soft_wrap=True)


def headlines(summary: dict[str, Any]) -> list[str]:
    """ESS, acceptance, log Z and the wall time as lines of text."""
    lines = []
    ess = summary.get("ess") or {}
    if finite(ess.get("value")) is not None:
        alone = summary.get("ess_prior") or {}
        without = "" if not alone else f", {uncertain(alone['value'], alone.get('error'))} without the flow"
        lines.append(
            f"ESS         {uncertain(ess['value'], ess.get('error'))}  over {count(ess.get('samples'))} proposals{without}"
        )
    if finite(summary.get("acceptance")) is not None:
        lines.append(f"acceptance  {percent(summary['acceptance'])}")
    if joint := summary.get("pseudofermions"):
        exact = joint.get("marginal_ess") or {}
        limit = "" if not exact else f", ESS {uncertain(exact['value'], exact.get('error'))} with the exact determinant"
        lines.append(f"draws       {count(joint['draws'])} of {count(joint['monomials'])} pseudofermions{limit}")
    log_z = summary.get("log_z") or {}
    if finite(log_z.get("value")) is not None:
        exact = finite(log_z.get("exact"))
        distance = pull(log_z["value"], log_z.get("error"), exact)
        known = "" if exact is None else f"  exact {alongside(exact, log_z.get('error'))}  {sigmas(distance)}"
        name = "log Z/Z0" if summary.get("prior") else "log Z"
        lines.append(f"{name:<11} {uncertain(log_z['value'], log_z.get('error'))}{known}")
    if finite(summary.get("audit")) is not None:
        lines.append(f"audit       {summary['audit']:.1g} nats at most between log q forward and backward")
    seconds = summary.get("seconds") or {}
    if seconds:
        lines.append("time        " + ", ".join(f"{name} {duration(value)}" for name, value in seconds.items()))
    return lines


def _table(summary: dict[str, Any], narrow: bool) -> Any:
    """The table; on a narrow terminal without the columns that can be missed."""
    from rich.table import Table

    kind = (summary.get("baseline") or {}).get("kind") or "none"
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("observable", overflow="fold")
    headers = {**_HEADERS, "baseline": kind if kind != "none" else ""}
    left_out = set(_LEFT_OUT_WHEN_NARROW if narrow else ())
    if summary.get("prior"):  # of a stored ensemble there is no other estimate than reweighting
        headers["flow"] = "flow, reweighted"
        left_out.add("reweighted")
    for name, text in headers.items():
        if name not in left_out:
            table.add_column(text, justify="right", no_wrap=True)
    for name, row in summary["observables"].items():
        if finite(row.get("value")) is None:
            continue  # correlators are drawn in the report
        cells = _cells(row)
        table.add_row(label(name), *(text for key, text in cells.items() if key not in left_out))
    return table


def _cells(row: dict[str, Any]) -> dict[str, str]:
    weighted, base = row.get("reweighted") or {}, row.get("baseline") or {}
    to_exact = pull(row["value"], row.get("error"), row.get("exact"))
    to_base = pull(row["value"], row.get("error"), base.get("value"), base.get("error"))
    return {
        "flow": uncertain(row["value"], row.get("error")),
        "flow tau": significant(row.get("tau_int"), 2),
        "reweighted": uncertain(weighted.get("value"), weighted.get("error")),
        "baseline": uncertain(base.get("value"), base.get("error")),
        "baseline tau": significant(base.get("tau_int"), 2),
        "exact": alongside(row.get("exact"), row.get("error")),
        "to exact": _marked(to_exact),
        "to baseline": "frozen" if finite(base.get("error")) == 0.0 else _marked(to_base),
    }


def _marked(distance: float | None) -> str:
    text = sigmas(distance)
    return f"[red]{text}[/red]" if distance is not None and abs(distance) > 3 else text
