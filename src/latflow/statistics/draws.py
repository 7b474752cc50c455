"""What several pseudofermion draws per configuration bring, Eqs. (42)-(46) of 2207.08945."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from latflow.statistics.weights import ess_with_error

_MOST_SUBSETS = 16  # of the draws, over which the ESS of few draws is averaged


class DrawsPoint(NamedTuple):
    """ESS with `draws` pseudofermions per monomial and configuration."""

    draws: int
    ess: float
    error: float


class DrawsFit(NamedTuple):
    """1 / ESS(n) = (1 + C / n) / ESS(infinity), Eq. (45), fitted to the points of a curve with ESS(infinity) <= 1 and C >= 0;
    errors are those of the fit, with the bound that holds it, if one does, taken as given."""

    ess: float
    ess_error: float
    C: float
    C_error: float


def averaged(estimates: Float[np.ndarray, "n monomials draws"], draws: np.ndarray) -> Float[np.ndarray, " n"]:
    """Log of the product over monomials of the mean over the chosen draws, Eq. (46); nan where one of them is not finite."""
    chosen = estimates[:, :, draws]
    top = np.max(chosen, axis=2, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.log(np.mean(np.exp(chosen - top), axis=2)) + top[..., 0]).sum(1)


def ess_of_draws(
    rest: Float[np.ndarray, " n"], estimates: Float[np.ndarray, "n monomials draws"], numbers: Sequence[int] | None = None
) -> list[DrawsPoint]:
    """ESS(N_pf) for N_pf = `numbers` (if not given, powers of two up to all) draws of each configuration, averaged over
    disjoint sets of them, errors by the jackknife over configurations of one set.

    `rest` is the log weight without the pseudofermions, -S_b - log q; weights that are not finite count as zero. Raises
    ValueError for more draws than there are.
    """
    total = estimates.shape[2]
    numbers = numbers or sorted({*(2**k for k in range(total.bit_length()) if 2**k <= total), total})
    if max(numbers) > total:
        raise ValueError(f"{max(numbers)} draws are asked for, but there are {total} per configuration")
    points = []
    for number in numbers:
        sets = [np.arange(i * number, (i + 1) * number) for i in range(min(total // number, _MOST_SUBSETS))]
        found = []
        for draws in sets:
            log_weight = rest + averaged(estimates, draws)
            found.append(ess_with_error(np.where(np.isfinite(log_weight), log_weight, -np.inf)))
        values, errors = np.array(found).T
        # the sets share the gauge fields, so their errors are correlated: no division by the root of their number
        points.append(DrawsPoint(number, float(values.mean()), float(errors.mean())))
    return points


def fit_draws(points: Sequence[DrawsPoint]) -> DrawsFit | None:
    """The fit of Eq. (45) by weighted least squares in 1/n; None for fewer than two points.

    The formula is exact for one monomial; for several it is the beginning of an expansion in 1/n, so that points of few draws
    may lie below it.
    """
    if len(points) < 2:
        return None
    inverse = np.array([1 / max(p.ess, 1e-12) for p in points])
    error = np.array([max(p.error, 1e-6) / max(p.ess, 1e-12) ** 2 for p in points])
    design = np.stack([np.ones(len(points)), [1 / p.draws for p in points]], axis=1) / error[:, None]
    covariance, sought = np.linalg.inv(design.T @ design), inverse / error
    a, b = (float(x) for x in covariance @ design.T @ sought)
    if b < 0:
        constant = float(design[:, 0] @ design[:, 0])
        a, b, covariance = float(design[:, 0] @ sought) / constant, 0.0, np.diag([1 / constant, 0.0])
    if a < 1:  # the weights of few draws have heavy tails, and more draws bring more than the formula allows
        slope = float(design[:, 1] @ design[:, 1])
        a, b, covariance = 1.0, max(float(design[:, 1] @ (sought - design[:, 0])) / slope, 0.0), np.diag([0.0, 1 / slope])
    C, (a2, ab, b2) = b / a, (float(covariance[i]) for i in ((0, 0), (0, 1), (1, 1)))
    C_error = np.sqrt(max(b2 - 2 * C * ab + C**2 * a2, 0.0)) / a
    return DrawsFit(1 / a, float(np.sqrt(a2)) / a**2, C, float(C_error))


def best_number(fit: DrawsFit, configuration: float, draw: float, most: int = 64) -> int:
    """The power of two of draws with the largest ESS per second, if a configuration takes `configuration` seconds and each
    further draw `draw`."""
    numbers = [2**k for k in range(most.bit_length()) if 2**k <= most]
    return max(numbers, key=lambda n: 1 / ((1 + fit.C / n) * (configuration + n * draw)))
