"""What is measured on a batch of configurations, as columns of an ensemble file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import Array

# A function of one configuration: a value, or {name: value} where several share a costly evaluation.
Observable = Callable[[Any], Array | Mapping[str, Array]]


def measured(observables: Mapping[str, Observable], fields: Array) -> dict[str, Array]:
    """{"measurements/<name>": values, batch axis first} of `fields`, batch axis last.

    A function that returns a mapping is evaluated once and makes a column of every entry, under the entry's own name.
    Raises ValueError if two observables have one name.
    """
    columns: dict[str, Array] = {}
    for name, function in observables.items():
        found = jax.vmap(function, in_axes=-1)(fields)
        for key, values in found.items() if isinstance(found, Mapping) else ((name, found),):
            if f"measurements/{key}" in columns:
                raise ValueError(f"two observables are called {key!r}")
            columns[f"measurements/{key}"] = values
    return columns
