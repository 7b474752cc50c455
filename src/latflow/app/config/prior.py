"""[prior]: the density the flow starts from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latflow.app.config.base import PositiveFloat, Section
from latflow.app.config.theory import GAUGE, Beta


class _Prior(Section):
    fits: ClassVar[tuple[str, ...]]
    advice: ClassVar[str]

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        theory = sections.get("theory")
        if theory is not None and theory.kind not in self.fits:
            yield "kind", f"the {self.kind} prior does not fit {theory.kind}: {self.advice}"  # type: ignore[attr-defined]


class HaarPrior(_Prior):
    """Independent links from the invariant measure."""

    fits = GAUGE
    advice = 'a scalar field has no normalised invariant measure; use "normal" or "free"'
    kind: Literal["haar"]


class NormalPrior(_Prior):
    """Independent Gaussian sites of the given standard deviation."""

    fits = ("phi4",)
    advice = 'it is for scalar fields; use "haar" or, for U(1), SU(2) and SU(3) in two dimensions, "exact"'
    kind: Literal["normal"]
    scale: PositiveFloat = 1.0


class FreePrior(_Prior):
    """The free scalar field of mass squared m2, drawn exactly by FFT."""

    fits = ("phi4",)
    advice = 'it is for scalar fields; use "haar" or, for U(1), SU(2) and SU(3) in two dimensions, "exact"'
    kind: Literal["free"]
    m2: PositiveFloat = 1.0


class ExactPrior(_Prior):
    """The exact independent sampler of 2D U(1), SU(2) or SU(3), at the theory's coupling or at its own."""

    fits = GAUGE
    advice = "the exact sampler exists for U(1), SU(2) and SU(3) in two dimensions"
    kind: Literal["exact"]
    beta: Beta | None = None

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super().problems(sections)
        theory = sections.get("theory")
        if theory is not None and theory.kind in self.fits and not theory.has_exact_samples:
            yield "kind", f'{self.advice}, not for {theory.label}; use "haar"'


Prior = Annotated[HaarPrior | NormalPrior | FreePrior | ExactPrior, Field(discriminator="kind")]


def default_prior(theory_kind: Any) -> dict[str, Any]:
    """The prior taken when the file has no [prior] table."""
    return {"kind": "normal"} if theory_kind == "phi4" else {"kind": "haar"}
