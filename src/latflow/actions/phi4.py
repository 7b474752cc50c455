"""phi^4 theory in any dimension, in the form of 1904.12072, and its free limit."""

from __future__ import annotations

import math

import equinox as eqx
from jaxtyping import Array, Float

from latflow.actions.base import AbstractAction, Coupling, coupling
from latflow.groups import RealLine
from latflow.lattice import Geometry, shift
from latflow.precision import double_sum

Scalar = Float[Array, "*lattice"]


class Phi4(AbstractAction):
    """S = sum_x { phi(x) [ 2 Nd phi(x) - sum_mu (phi(x+mu) + phi(x-mu)) ] + m2 phi(x)^2 + lam phi(x)^4 }.

    The kinetic term is that of 1904.12072, i.e. sum_mu (phi(x+mu) - phi(x))^2 without a factor 1/2. The textbook
    form sum 1/2 (d phi)^2 + m0^2/2 phi^2 + g0/4! phi^4 of a field varphi is this one with phi = varphi / sqrt(2), m2 = m0^2,
    lam = g0/6. The hopping form is related by `from_hopping` and `to_hopping`.

    `m2` and `lam` may be traced scalars. Raises ValueError for constants with which exp(-S) cannot be normalised: lam < 0, or
    lam = 0 with m2 <= 0.
    """

    geometry: Geometry = eqx.field(static=True)
    m2: Coupling
    lam: Coupling
    group: RealLine = eqx.field(default=RealLine(), init=False)

    def __check_init__(self) -> None:
        if isinstance(self.lam, (int, float)):
            if self.lam < 0:
                raise ValueError(f"phi^4 needs lam >= 0 for a weight that can be normalised, got lam = {self.lam}")
            if self.lam == 0 and isinstance(self.m2, (int, float)) and self.m2 <= 0:
                raise ValueError(f"without a quartic term the mass must be positive, got m2 = {self.m2} with lam = 0")

    def __call__(self, field: Scalar) -> Float[Array, ""]:
        square = field * field
        return _free(self.geometry, self.m2, field) + coupling(self.lam, field) * double_sum(square * square)

    def value_and_force(self, field: Scalar) -> tuple[Float[Array, ""], Scalar]:
        lam, cube = coupling(self.lam, field), field * field * field
        value, force = _free_value_and_force(self.geometry, self.m2, field)
        return value + lam * double_sum(cube * field), force + 4 * lam * cube

    @classmethod
    def from_hopping(cls, geometry: Geometry, kappa: float, lam: float) -> tuple[Phi4, float]:
        """The action of S_h = sum_x { -2 kappa sum_mu phi_h(x) phi_h(x+mu) + phi_h^2 + lam (phi_h^2 - 1)^2 }.

        Returns (action, scale) with phi = scale * phi_h, scale = sqrt(kappa), and S_h(phi_h) = S(scale * phi_h) + lam * V:
        m2 = (1 - 2 lam)/kappa - 2 Nd, quartic coupling lam/kappa^2. Raises ValueError unless kappa > 0 (kappa -> -kappa is
        the staggered sign flip of phi on even lattices).
        """
        if not kappa > 0:
            raise ValueError(f"the hopping parameter must be positive to convert to the form with a mass, got kappa = {kappa}")
        return cls(geometry, (1 - 2 * lam) / kappa - 2 * geometry.Nd, lam / kappa**2), math.sqrt(kappa)

    def to_hopping(self) -> tuple[float, float]:
        """(kappa, lam) of the hopping form; the inverse of `from_hopping`. Needs concrete couplings.

        kappa is the positive root of 2 lam kappa^2 + (m2 + 2 Nd) kappa - 1 = 0.
        """
        m2, lam = float(self.m2), float(self.lam)
        b = m2 + 2 * self.geometry.Nd
        root = math.hypot(b, math.sqrt(8 * lam))
        # each form loses no digits in its half of the axis
        kappa = 2 / (b + root) if b > 0 else (root - b) / (4 * lam)
        return kappa, lam * kappa**2


class FreeScalar(AbstractAction):
    """S = sum_x phi (-lap + m2) phi, Phi4 with lam = 0: in momentum space sum_k |phi_k|^2 (m2 + sum_mu 4 sin^2(k_mu/2)) / V,
    so that <|phi_k|^2>/V = 1 / (2 (m2 + khat^2)). Raises ValueError unless m2 > 0."""

    geometry: Geometry = eqx.field(static=True)
    m2: Coupling
    group: RealLine = eqx.field(default=RealLine(), init=False)

    def __check_init__(self) -> None:
        if isinstance(self.m2, (int, float)) and self.m2 <= 0:
            raise ValueError(f"a free field needs a positive mass, got m2 = {self.m2}")

    def __call__(self, field: Scalar) -> Float[Array, ""]:
        return _free(self.geometry, self.m2, field)

    def value_and_force(self, field: Scalar) -> tuple[Float[Array, ""], Scalar]:
        return _free_value_and_force(self.geometry, self.m2, field)


def _free(geometry: Geometry, m2: Coupling, phi: Scalar) -> Float[Array, ""]:
    ahead = sum(shift(phi, mu, geometry.Nd) for mu in range(geometry.Nd))
    return double_sum(phi * ((coupling(m2, phi) + 2 * geometry.Nd) * phi - 2 * ahead))


def _free_value_and_force(geometry: Geometry, m2: Coupling, phi: Scalar) -> tuple[Float[Array, ""], Scalar]:
    Nd = geometry.Nd
    neighbours = sum(shift(phi, mu, Nd) + shift(phi, mu, Nd, -1) for mu in range(Nd))
    half = (coupling(m2, phi) + 2 * Nd) * phi - neighbours
    return double_sum(phi * half), 2 * half
