"""What every section of a configuration has in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, Strict


class Section(BaseModel):
    """A table of the TOML file: unknown keys, lossy conversions and non-finite numbers are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """(key, reason) for every way in which this section does not go with the others.

        `sections` holds the other sections by name; one that is itself mistaken is absent, so that one reading of the file
        reports every mistake.
        """
        yield from ()


Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
# TOML has arrays only; the container may be a list, its items stay strict.
Integers = Annotated[tuple[Positive, ...], Strict(False)]
