"""[theory]: which action, on which lattice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from latflow.app.config.base import Integers, Positive, Section


def _gauge_coupling(beta: float) -> float:
    if beta < 0:
        raise ValueError(
            f"beta must not be negative, got {beta:g}: the action would favour plaquettes near -1, a theory that none of the "
            "exact results, priors and heatbaths here describe (for U(1) on even extents it equals the one at |beta| with "
            "every plaquette shifted by pi, so run that instead)"
        )
    return beta


Beta = Annotated[float, AfterValidator(_gauge_coupling)]


class _Gauge(Section):
    lattice: Integers
    beta: Beta

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if not 2 <= len(self.lattice) <= 4:
            yield "lattice", f"gauge theories live in 2 to 4 dimensions, got {len(self.lattice)} extents {list(self.lattice)}"
        elif min(self.lattice) < 2:
            yield "lattice", f"every extent must be at least 2 (a site may not be its own neighbour), got {list(self.lattice)}"


class U1Theory(_Gauge):
    """Compact U(1), Wilson action S = -beta sum cos(plaquette)."""

    kind: Literal["u1"]

    @property
    def has_exact_samples(self) -> bool:
        return len(self.lattice) == 2

    @property
    def label(self) -> str:
        return f"U(1), {shape_label(self.lattice)}, beta = {self.beta:g}"


class SUNTheory(_Gauge):
    """SU(Nc), Wilson action S = -(beta/Nc) sum Re Tr plaquette."""

    kind: Literal["sun"]
    Nc: Annotated[int, Field(ge=2)]

    @property
    def has_exact_samples(self) -> bool:
        return len(self.lattice) == 2 and self.Nc <= 3

    @property
    def label(self) -> str:
        return f"SU({self.Nc}), {shape_label(self.lattice)}, beta = {self.beta:g}"


class Phi4Theory(Section):
    """Real scalar field: S = sum phi (2 d phi - neighbours) + m2 phi^2 + lam phi^4, given by (m2, lam), or by the hopping
    form -2 kappa sum phi phi' + phi^2 + lam (phi^2 - 1)^2, given by (kappa, lam)."""

    kind: Literal["phi4"]
    lattice: Integers
    m2: float | None = None
    kappa: float | None = None
    lam: float

    @property
    def has_exact_samples(self) -> bool:
        return self.lam == 0

    @property
    def label(self) -> str:
        mass = f"m2 = {self.m2:g}" if self.kappa is None else f"kappa = {self.kappa:g}"
        return f"phi^4, {shape_label(self.lattice)}, {mass}, lam = {self.lam:g}"

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if len(self.lattice) > 4:
            yield "lattice", f"at most 4 dimensions, got {len(self.lattice)} extents {list(self.lattice)}"
        if min(self.lattice, default=0) < 2:
            yield "lattice", f"every extent must be at least 2 (a site may not be its own neighbour), got {list(self.lattice)}"
        if (self.m2 is None) == (self.kappa is None):
            both = "not both" if self.m2 is not None else "one of them is missing"
            yield "m2", f"give either m2 (with lam) or kappa (with lam, the hopping form), {both}"
        if self.lam < 0:
            yield "lam", f"must not be negative, got {self.lam:g}: the action would have no lower bound"
        if self.kappa is not None and self.kappa <= 0:
            yield "kappa", f"must be positive, got {self.kappa:g}: the field is rescaled by sqrt(kappa)"
        elif self.lam == 0 and self._mass_squared() <= 0:
            name = "m2" if self.kappa is None else "kappa"
            yield name, "without lam the field is free, and its mass squared must be positive for the density to exist"

    def _mass_squared(self) -> float:
        if self.kappa is None:
            return 1.0 if self.m2 is None else self.m2
        return (1 - 2 * self.lam) / self.kappa - 2 * len(self.lattice)


Theory = Annotated[U1Theory | SUNTheory | Phi4Theory, Field(discriminator="kind")]
GAUGE = ("u1", "sun")
ALL_THEORIES = ("u1", "sun", "phi4")


def shape_label(shape: tuple[Positive, ...]) -> str:
    """8x8, or 4^4 where three or more extents agree."""
    if len(shape) > 2 and len(set(shape)) == 1:
        return f"{shape[0]}^{len(shape)}"
    return "x".join(map(str, shape))
