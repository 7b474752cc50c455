"""The whole configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from latflow.app.config.base import Section
from latflow.app.config.baseline import Baseline
from latflow.app.config.fermions import Fermions, NoFermions
from latflow.app.config.flow import Flow
from latflow.app.config.prior import Prior, default_prior
from latflow.app.config.pseudofermions import NoPseudofermions, Pseudofermions
from latflow.app.config.sample import Measure, Sample
from latflow.app.config.theory import Theory
from latflow.app.config.train import Train


class Config(Section):
    """Everything a run depends on. Sections left out take their defaults; only `name` and [theory] are required."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    description: str = ""
    expected_time: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    precision: Literal["single", "double"] = "single"
    device: Literal["auto", "cpu", "gpu"] = "auto"
    theory: Theory
    fermions: Fermions
    pseudofermions: Pseudofermions
    prior: Prior
    flow: Flow
    train: Train = Train()
    sample: Sample = Sample()
    measure: Measure = Measure()
    baseline: Baseline

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, raw: Any) -> Any:
        return complete(raw) if isinstance(raw, Mapping) else raw

    @property
    def label(self) -> str:
        """The theory in words, as in the titles of reports."""
        return self.theory.label if isinstance(self.fermions, NoFermions) else f"{self.theory.label}, {self.fermions.label}"

    @property
    def is_joint(self) -> bool:
        """Whether the determinant is estimated with pseudofermions."""
        return not isinstance(self.pseudofermions, NoPseudofermions)

    @property
    def has_flow(self) -> bool:
        """Whether there is anything besides the baseline."""
        return self.flow.kind != "none"

    def cross_problems(self) -> Iterator[tuple[str, str]]:
        """(path, reason) for every conflict between sections."""
        yield from cross_problems({name: getattr(self, name) for name in type(self).model_fields})


def complete(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The raw tables with those sections filled in whose default depends on another section."""
    full = dict(raw)
    theory = raw.get("theory")
    full.setdefault("fermions", {"kind": "none"})
    full.setdefault("pseudofermions", {"kind": "none"})
    full.setdefault("prior", default_prior(theory.get("kind") if isinstance(theory, Mapping) else None))
    full.setdefault("flow", {"kind": "identity"})
    full.setdefault("baseline", {"kind": "hmc"})
    flow, train, drawn = full["flow"], full.get("train", {}), full["pseudofermions"]
    fixed = isinstance(drawn, Mapping) and drawn.get("kind") != "network"
    if fixed and isinstance(flow, Mapping) and flow.get("kind") in ("identity", "none") and isinstance(train, Mapping):
        full["train"] = {"steps": 0, **train}
    return full


def cross_problems(sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(path, reason) for every conflict between those sections that are themselves valid."""
    for name, section in sections.items():
        if isinstance(section, Section):
            for key, reason in section.problems(sections):
                yield f"{name}.{key}", reason
