"""U(1) gauge theory on the two-dimensional torus in closed form."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import scipy.special
from jaxtyping import Float

from latflow.exact.sums import log_sum
from latflow.lattice import Geometry


@dataclasses.dataclass(frozen=True)
class TorusU1:
    """Wilson's action S = -beta sum_x cos P(x) on a periodic L0 x L1 lattice of V plaquettes.

    The plaquettes are independent but for prod exp(i P) = 1, so with Haar measure normalised to 1
        Z = sum_m I_m(beta)^V,    <W(A)> = sum_m I_m(beta)^(V-A) I_{m+1}(beta)^A / Z,
    and with a vacuum angle for the charge Q = sum P / 2 pi, P in (-pi, pi),
        Z(vartheta) = sum_m c(m + vartheta / 2 pi)^V,  c(k) = int dP/2pi exp(beta cos P + i k P) = sum_n I_n(beta) sinc(n + k).
    Everything is evaluated through logarithms of I_m / I_0, so nothing overflows at any beta or volume. All results are
    float64 in lattice units.

    Raises ValueError unless the lattice is two-dimensional and beta is finite and >= 0.
    """

    geometry: Geometry
    beta: float

    def __post_init__(self) -> None:
        if self.geometry.Nd != 2:
            raise ValueError(
                f"U(1) gauge theory is solved in closed form in two dimensions only, not on the {self.geometry.Nd}-dimensional "
                f"lattice {self.geometry.shape}"
            )
        if not (math.isfinite(self.beta) and self.beta >= 0):
            raise ValueError(
                f"the closed forms need a finite beta >= 0, got {self.beta}; on even lattices the theory at -beta is the one "
                "at beta with every plaquette angle moved by pi"
            )

    def log_z(self) -> float:
        """log Z with respect to normalised Haar measure."""
        V = self.geometry.volume
        return V * (math.log(scipy.special.ive(0, self.beta)) + self.beta) + log_sum(
            V * self._log_ratios(_flux_range(self.beta, V))
        )

    def plaquette(self) -> float:
        """<cos P>."""
        return self.wilson_loop(1)

    def wilson_loop(self, area: int) -> float:
        """<cos(sum of P over `area` plaquettes)>, for any contractible loop that encloses `area` <= V plaquettes.

        Raises ValueError for an area that does not fit.
        """
        V = self.geometry.volume
        if not 0 <= area <= V:
            raise ValueError(f"a loop of area {area} does not fit on a lattice of {V} plaquettes")
        m = _flux_range(self.beta, V)
        rest = 0.0 if area == V else (V - area) * self._log_ratios(m)
        shifted = 0.0 if area == 0 else area * self._log_ratios(m + 1)
        log_z = log_sum(V * self._log_ratios(m))
        return math.exp(log_sum(rest + shifted) - log_z)

    def action_density(self) -> float:
        """<S> / V = -beta <cos P>."""
        return -self.beta * self.plaquette()

    def action_variance(self) -> float:
        """(<S^2> - <S>^2) / V = beta^2 d^2 log Z / d beta^2 / V."""
        V, m = self.geometry.volume, _flux_range(self.beta, self.geometry.volume)
        log_weight = V * self._log_ratios(m)
        weight = np.exp(log_weight - scipy.special.logsumexp(log_weight))
        keep = weight > 0
        m, weight = m[keep], weight[keep]
        I = scipy.special.ive  # noqa: E741
        first = (I(m - 1, self.beta) + I(m + 1, self.beta)) / (2 * I(m, self.beta))
        second = (I(m - 2, self.beta) + 2 * I(m, self.beta) + I(m + 2, self.beta)) / (4 * I(m, self.beta))
        spread = np.sum(weight * first**2) - np.sum(weight * first) ** 2
        return float(self.beta**2 * (np.sum(weight * (second - first**2)) + V * spread))

    def q_distribution(self) -> tuple[Float[np.ndarray, " charges"], Float[np.ndarray, " charges"]]:
        """(Q, p): the charges with non-negligible probability, ascending from -Q_max to Q_max, and their probabilities.

        p(Q) = int dvartheta/2pi Z(vartheta) exp(-i vartheta Q) / Z(0). Z is a trigonometric polynomial, so equidistant
        points give the integral exactly. Absolute accuracy about 1e-14.
        """
        return _q_distribution(self.geometry.volume, self.beta)

    def q2(self) -> float:
        """<Q^2> = -d^2 log Z(vartheta) / d vartheta^2 at 0."""
        Q, p = self.q_distribution()
        return float(np.sum(Q**2 * p))

    def topological_susceptibility(self) -> float:
        """<Q^2> / V."""
        return self.q2() / self.geometry.volume

    def _log_ratios(self, m: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return np.log(scipy.special.ive(np.abs(m), self.beta)) - math.log(scipy.special.ive(0, self.beta))


def _flux_range(beta: float, volume: int) -> np.ndarray:
    """All m with a contribution above rounding: (I_m/I_0)^V < exp(-V m^2 / (2 beta + 2 m)) is below e^-80 outside."""
    cut = 80 / volume
    bound = math.ceil(cut + math.sqrt(cut * cut + 2 * cut * beta)) + 2
    return np.arange(-bound, bound + 1)


@functools.lru_cache(maxsize=64)
def _q_distribution(volume: int, beta: float) -> tuple[np.ndarray, np.ndarray]:
    if volume <= 2:  # P(1) = -P(0): no room for a charge
        return np.zeros(1), np.ones(1)
    Q_max = min(volume // 2, math.ceil(10 * math.sqrt(volume * _angle_variance(beta)) / (2 * math.pi)) + 8)
    Q = np.arange(-Q_max, Q_max + 1)
    N = 2 * Q_max + 1
    k = np.arange(N) / N - 0.5 + 0.5 / N
    # c(k + m)^V falls like (pi m)^-V at worst (beta = 0, small V)
    m_max = min(2048, math.ceil(3 + 16 * math.sqrt(beta / volume) + 10 ** (16 / volume)))
    n = np.arange(-(60 + 10 * math.ceil(math.sqrt(beta))), 61 + 10 * math.ceil(math.sqrt(beta)))
    bessel = scipy.special.ive(np.abs(n), beta) / scipy.special.ive(0, beta)
    z = np.zeros(N)
    for m in np.array_split(np.arange(-m_max, m_max + 1), 1 + m_max * N * n.size // 2_000_000):
        c = np.sinc(n + (k[:, None] + m)[..., None]) @ bessel
        with np.errstate(divide="ignore"):
            z += np.sum(np.sign(c) ** volume * np.exp(volume * np.log(np.abs(c))), axis=1)
    p = np.cos(2 * math.pi * Q[:, None] * k) @ z
    p = np.maximum(p / np.sum(p), 0)
    return Q.astype(np.float64), p / np.sum(p)


def _angle_variance(beta: float) -> float:
    """<P^2> of one unconstrained plaquette."""
    x, weight = np.polynomial.legendre.leggauss(200)
    P = math.pi * (x + 1) / 2
    density = weight * np.exp(-2 * beta * np.sin(P / 2) ** 2)
    return float(density @ P**2 / density.sum())
