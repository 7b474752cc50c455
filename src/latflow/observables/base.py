"""What an observable is: a named function of one configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from jaxtyping import Array, Float, Inexact

from latflow.groups import AbstractGroup
from latflow.lattice import Geometry

Field = Inexact[Array, "..."]
Value = Float[Array, "..."]


@dataclasses.dataclass(frozen=True)
class Observable:
    """A real function of one configuration, pure, so that it can be jitted and vmapped.

    `evaluate(group, geometry, field)` returns a scalar or a vector in the precision of the field. `applies(group, geometry)`
    says whether it exists for such fields; `condition` says when, in words.
    """

    name: str
    description: str
    applies: Callable[[AbstractGroup, Geometry], bool]
    condition: str
    evaluate: Callable[[AbstractGroup, Geometry, Field], Value]
