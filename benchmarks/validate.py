"""Run recipes as they are shipped and hold every estimate against the exact result, or else the baseline.

    python benchmarks/validate.py [RECIPE ...]

prints one table: effective sample size, acceptance, seconds, and the largest deviation from exact results and from the
baseline in standard errors. Exits with status 1 if one is beyond five. Runs resume, so it may be stopped and started again.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

LIMIT = 5.0
LATFLOW = Path(sys.executable).with_name("latflow")


def run(*arguments: str) -> dict[str, Any]:
    """The JSON document of a latflow command. Raises SystemExit with its message if it fails."""
    done = subprocess.run([LATFLOW, *arguments, "--json"], stdout=subprocess.PIPE, text=True, check=False)
    document = json.loads(done.stdout)
    if done.returncode:
        raise SystemExit(f"latflow {' '.join(arguments)}: {document.get('error')}")
    return document


def largest_pulls(observables: dict[str, Any]) -> tuple[float, float]:
    """Largest |deviation| / error of the flow chain from exact values and from the baseline; 0 where there is nothing."""
    to_exact, to_baseline = [0.0], [0.0]
    for row in observables.values():
        value, error = row.get("value"), row.get("error")
        if not isinstance(value, float) or not isinstance(error, float) or not error > 0:
            continue
        if isinstance(exact := row.get("exact"), float):
            to_exact.append(abs(value - exact) / error)
        base = row.get("baseline") or {}
        if isinstance(base.get("value"), float) and isinstance(base.get("error"), float):
            to_baseline.append(abs(value - base["value"]) / math.hypot(error, base["error"]))
    return max(to_exact), max(to_baseline)


def main(recipes: list[str]) -> int:
    failed = 0
    print(f"{'recipe':<14} {'ESS':>15} {'acceptance':>10} {'seconds':>8} {'exact':>6} {'base':>6}")
    for recipe in recipes or [row["name"] for row in run("recipes")["recipes"]]:
        result = run("run", recipe)
        exact, baseline = largest_pulls(result["observables"])
        # a frozen baseline underestimates its own errors, so only exact results decide where there are any
        failed += (exact or baseline) > LIMIT
        seconds = sum(v for v in result["seconds"].values() if v)
        if "ess" not in result:  # a reference ensemble
            print(f"{recipe:<14} {'baseline only':>15} {result['baseline']['acceptance']:>10.3f} {seconds:>8.0f}", flush=True)
            continue
        ess = result["ess"]
        print(
            f"{recipe:<14} {ess['value']:>7.3f} +- {ess['error']:.3f} {result['acceptance']:>10.3f} {seconds:>8.0f} "
            f"{exact:>6.1f} {baseline:>6.1f}",
            flush=True,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
