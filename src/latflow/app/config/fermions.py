"""[fermions]: dynamical fermions, whose determinant multiplies the weight of the bosonic theory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict

from latflow.app.config.base import NonNegativeFloat, Positive, PositiveFloat, Section
from latflow.app.config.theory import GAUGE


class NoFermions(Section):
    """The bosonic theory alone."""

    kind: Literal["none"]


class _Fermions(Section):
    fits: ClassVar[tuple[str, ...]]
    dimensions: ClassVar[tuple[int, ...]] = (2, 4)
    advice: ClassVar[str]
    even: ClassVar[bool] = False

    flavours: Positive = 2
    boundary: Annotated[tuple[float, ...], Strict(False)] | None = None

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        theory = sections.get("theory")
        if theory is None:
            return
        if theory.kind not in self.fits:
            yield "kind", f"{self.kind} fermions do not couple to {theory.kind}: {self.advice}"  # type: ignore[attr-defined]
        if len(theory.lattice) not in self.dimensions:
            known = " or ".join(map(str, self.dimensions))
            yield "kind", f"needs {known} dimensions, not the {len(theory.lattice)} of {list(theory.lattice)}"
        if self.even and any(n % 2 for n in theory.lattice):
            yield "kind", f"the signs of staggered fermions close on even extents only, not on {list(theory.lattice)}"
        if self.boundary is not None and len(self.boundary) != len(theory.lattice):
            yield "boundary", f"one angle per direction is needed, {len(theory.lattice)}, got {list(self.boundary)}"

    @property
    def angles(self) -> tuple[float, ...] | None:
        """The boundary condition in radians."""
        return None if self.boundary is None else tuple(math.pi * angle for angle in self.boundary)


class WilsonFermions(_Fermions):
    """Wilson fermions of hopping parameter `kappa` = 1 / (2 Nd + 2 m0), coupled to gauge links; `csw` adds the clover term.

    `boundary`: the angle by which the field turns around each direction, in units of pi ([1.0, 0.0], antiperiodic in time, if
    not given). `flavours` of them are degenerate; for an odd number the sign of the determinant is measured, not sampled."""

    fits = GAUGE
    advice = 'a scalar field takes "wilson-yukawa" or "staggered-yukawa"'
    kind: Literal["wilson"]
    kappa: PositiveFloat
    csw: NonNegativeFloat | None = None

    @property
    def label(self) -> str:
        clover = "" if self.csw is None else f", csw = {self.csw:g}"
        return f"Nf = {self.flavours}, kappa = {self.kappa:g}{clover}"


class WilsonYukawaFermions(_Fermions):
    """Wilson fermions of bare mass `mass` with a Yukawa coupling `g` to the scalar field."""

    fits = ("phi4",)
    advice = 'gauge links take "wilson"'
    kind: Literal["wilson-yukawa"]
    mass: float
    g: float

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super().problems(sections)
        theory = sections.get("theory")
        if theory is not None and 2 * len(theory.lattice) + 2 * self.mass <= 0:
            yield (
                "mass",
                f"must be above {-len(theory.lattice)}, where the hopping parameter would be infinite, got {self.mass:g}",
            )

    @property
    def label(self) -> str:
        return f"Nf = {self.flavours} Wilson, m = {self.mass:g}, g = {self.g:g}"


class StaggeredYukawaFermions(_Fermions):
    """Staggered fermions of mass `mass` with a Yukawa coupling `g` to the scalar field (2106.05934)."""

    fits = ("phi4",)
    dimensions = (2,)
    advice = 'gauge links take "wilson"'
    even = True
    kind: Literal["staggered-yukawa"]
    mass: float = 0.0
    g: float

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super().problems(sections)
        if self.mass == 0 and getattr(sections.get("baseline"), "start", "hot") == "cold":
            yield "mass", 'the even/odd complement does not exist at phi = 0 without a mass; use baseline.start = "hot"'

    @property
    def label(self) -> str:
        return f"Nf = {self.flavours} staggered, m = {self.mass:g}, g = {self.g:g}"


Fermions = Annotated[NoFermions | WilsonFermions | WilsonYukawaFermions | StaggeredYukawaFermions, Field(discriminator="kind")]


def are_dynamical(fermions: Any) -> bool:
    """Whether a [fermions] table (or None, a mistaken one) has any."""
    return fermions is not None and fermions.kind != "none"
