"""[prior]: the density the flow starts from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict

from latflow.app.config.base import NonNegative, Positive, PositiveFloat, Section
from latflow.app.config.fermions import are_dynamical
from latflow.app.config.theory import GAUGE, Beta


class _Prior(Section):
    fits: ClassVar[tuple[str, ...]]
    advice: ClassVar[str]

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        theory = sections.get("theory")
        if theory is not None and theory.kind not in self.fits:
            yield "kind", f"the {self.kind} prior does not fit {theory.kind}: {self.advice}"  # type: ignore[attr-defined]

    @property
    def density(self) -> dict[str, Any]:
        """The keys that decide which density this is; the others say how many draws of it are kept, and how they are made."""
        return self.model_dump(mode="json", exclude_none=True)


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
    """The exact independent sampler of 2D U(1), SU(2) or SU(3), at the theory's coupling or at its own; `beta = "auto"` takes
    the coupling at which its ESS for a theory with fermions is largest.

    With `learn` > 0 that many of its configurations are weighed, from which a function of their loops is learned that keeps or
    discards later ones, a share of `acceptance` (a resampled prior, 2110.15828): cheap where the determinant is costly."""

    fits = GAUGE
    advice = "the exact sampler exists for U(1), SU(2) and SU(3) in two dimensions"
    kind: Literal["exact"]
    beta: Beta | Literal["auto"] | None = None
    learn: NonNegative = 0
    acceptance: Annotated[float, Field(gt=0, lt=1)] = 0.2

    @property
    def is_tuned(self) -> bool:
        """Whether it has to be prepared before it can be drawn from."""
        return self.beta == "auto" or self.learn > 0

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super().problems(sections)
        theory = sections.get("theory")
        if theory is not None and theory.kind in self.fits and not theory.has_exact_samples:
            yield "kind", f'{self.advice}, not for {theory.label}; use "haar"'
        for key, used in (("beta", self.beta == "auto"), ("learn", self.learn > 0)):
            if used and not are_dynamical(sections.get("fermions")):
                yield key, "the prior of a theory without fermions is exact already; give beta as a number, and learn = 0"
        if 0 < self.learn < 512:
            yield "learn", f"at least 512 configurations are needed to learn from, got {self.learn}"


class SequentialHeatbathPrior(_Prior):
    """Links of U(1), SU(2) or SU(3) in any dimension, drawn one after the other from their heatbath distributions given those
    before: independent draws, close to the Wilson action at strong coupling. `beta` is the theory's unless given; loops of up
    to `area` plaquettes enter: the larger, the closer, and the more costly."""

    fits = GAUGE
    advice = "it draws gauge links"
    kind: Literal["sequential-heatbath"]
    beta: Beta | None = None
    area: Annotated[int, Field(ge=1, le=4)] = 2

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super().problems(sections)
        theory = sections.get("theory")
        if theory is not None and theory.kind == "sun" and theory.Nc > 3:
            yield "kind", f'links of U(1), SU(2) and SU(3) can be drawn one after the other, not of SU({theory.Nc}); use "haar"'


class _StoredPrior(_Prior):
    """Configurations of the theory at the coupling `beta`; each is mapped once, in order."""

    fits = GAUGE
    advice = "stored ensembles are of gauge links"
    beta: Beta

    @property
    def density(self) -> dict[str, Any]:
        return {"kind": "stored", "beta": self.beta}

    def sizes(self) -> tuple[int, int] | None:
        """(configurations, chains) if they are known beforehand."""
        return None

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super().problems(sections)
        train, sample, sizes = sections.get("train"), sections.get("sample"), self.sizes()
        if train is not None and train.steps and train.estimator == "forward":
            yield "kind", 'the "forward" estimator needs exact samples of the target, not a stored prior; use "path"'
        if sizes is None or sample is None:
            return
        configurations, chains = sizes
        if sample.num_samples > configurations:
            yield (
                "configurations",
                f"{configurations} are fewer than sample.num_samples = {sample.num_samples}: each is used once",
            )
        elif sample.num_samples % chains:
            yield "chains", f"sample.num_samples = {sample.num_samples} is not a multiple of the {chains} chains"
        elif sample.num_samples < 5 * chains:
            of_each = sample.num_samples // chains
            yield "chains", f"errors need 5 or more; there would be {of_each} configurations of each chain"


class EnsemblePrior(_StoredPrior):
    """`configurations` of the theory at the coupling `beta`, drawn by heatbath (Wilson action) in `chains` chains: one every
    `separation` sweeps, each with `overrelaxation` overrelaxation sweeps, after `thermalisation` sweeps. The flow maps each
    of them once, and weights are relative to that theory: log Z becomes log(Z / Z(beta))."""

    kind: Literal["ensemble"]
    configurations: Annotated[int, Field(ge=16)] = 256
    chains: Positive = 4
    thermalisation: NonNegative = 200
    separation: Positive = 10
    overrelaxation: NonNegative = 1
    start: Literal["hot", "cold"] = "cold"

    def sizes(self) -> tuple[int, int]:
        return self.configurations, self.chains

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super().problems(sections)
        theory = sections.get("theory")
        if self.configurations % self.chains:
            yield "configurations", f"{self.configurations} configurations cannot be divided among {self.chains} chains"
        if theory is not None and theory.kind in self.fits and any(n % 2 for n in theory.lattice):
            yield "kind", f"the heatbath updates a checkerboard and needs even extents, got {list(theory.lattice)}"


class FilesPrior(_StoredPrior):
    """Configurations made by another code, one Markov chain: `files` are NERSC or ILDG files, or patterns such as
    "configs/*.lime" (sorted by the numbers in their names), of the Wilson action at the coupling `beta`, with `dynamical` also
    of the fermions in [fermions], whose exact determinant is then computed of each. The flow maps each of them once, and
    weights are relative to that theory: log Z becomes log(Z / Z(beta))."""

    kind: Literal["files"]
    files: Annotated[tuple[str, ...], Strict(False), Field(min_length=1)]
    dynamical: bool = False

    @property
    def density(self) -> dict[str, Any]:
        return {**super().density, **({"dynamical": True} if self.dynamical else {})}

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super().problems(sections)
        theory = sections.get("theory")
        if theory is not None and (theory.kind != "sun" or theory.Nc != 3 or len(theory.lattice) != 4):
            yield "kind", "files hold SU(3) links in four dimensions"
        if self.dynamical and not are_dynamical(sections.get("fermions")):
            yield "dynamical", "there are no [fermions] that the files could be of"


Prior = Annotated[
    HaarPrior | NormalPrior | FreePrior | ExactPrior | SequentialHeatbathPrior | EnsemblePrior | FilesPrior,
    Field(discriminator="kind"),
]


def default_prior(theory_kind: Any) -> dict[str, Any]:
    """The prior taken when the file has no [prior] table."""
    return {"kind": "normal"} if theory_kind == "phi4" else {"kind": "haar"}
