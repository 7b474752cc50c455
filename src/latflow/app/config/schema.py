"""Looking up which keys exist, for overrides and for "did you mean"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_args

from latflow.app.config.base import Section
from latflow.app.config.baseline import Baseline
from latflow.app.config.fermions import Fermions
from latflow.app.config.flow import Flow
from latflow.app.config.prior import Prior
from latflow.app.config.pseudofermions import Pseudofermions
from latflow.app.config.root import Config
from latflow.app.config.sample import Measure, Sample
from latflow.app.config.theory import Theory
from latflow.app.config.train import Train

SECTIONS: dict[str, Any] = {
    "theory": Theory,
    "fermions": Fermions,
    "pseudofermions": Pseudofermions,
    "prior": Prior,
    "flow": Flow,
    "train": Train,
    "sample": Sample,
    "measure": Measure,
    "baseline": Baseline,
}


def models(section: str) -> dict[str | None, type[Section]]:
    """The classes a table may be read into, by `kind` (None for tables without kinds)."""
    annotation = SECTIONS[section]
    if isinstance(annotation, type):
        return {None: annotation}
    union = get_args(annotation)[0]
    return {get_args(model.model_fields["kind"].annotation)[0]: model for model in get_args(union)}


def keys(section: str, kind: str | None = None) -> list[str]:
    """Keys of a table, of one kind or of all of them."""
    known = models(section)
    chosen = [known[kind]] if kind in known else known.values()
    return list(dict.fromkeys(key for model in chosen for key in model.model_fields))


def paths() -> list[str]:
    """Every path that `--set` can name."""
    top = [name for name in Config.model_fields if name not in SECTIONS]
    return top + [f"{section}.{key}" for section in SECTIONS for key in keys(section)]


def is_optional(path: str) -> bool:
    """Whether a key may be absent, so that `none` unsets it."""
    section, _, key = path.partition(".")
    return any(
        key in model.model_fields and type(None) in get_args(model.model_fields[key].annotation)
        for model in models(section).values()
    )


def suggestion(word: str, candidates: Iterable[str]) -> str:
    """ "; did you mean x?", or nothing if no candidate is close."""
    by_lower = {str(c).lower(): str(c) for c in candidates}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    if not close:
        close = [c for c in by_lower if len(word) > 1 and (c.startswith(word.lower()) or word.lower().startswith(c))][:1]
    return f"; did you mean {by_lower[close[0]]}?" if close else ""


def key_suggestion(section: str | None, key: str, kind: str | None) -> str:
    """Advice on an unknown key: a close one in the same table, the kind it belongs to, or the table it belongs to."""
    if section is None:
        homes = [f"{name}.{key}" for name in SECTIONS if key in keys(name)]
        return f"; did you mean {' or '.join(homes)}?" if homes else suggestion(key, Config.model_fields)
    homes = [str(other) for other, model in models(section).items() if key in model.model_fields]
    if homes and kind is not None:
        return f"; it belongs to {section}.kind = {' or '.join(homes)}"
    close = suggestion(key, keys(section, kind))
    if close:
        return close
    elsewhere = [f"{name}.{key}" for name in SECTIONS if key in keys(name)]
    return f"; did you mean {' or '.join(elsewhere)}?" if elsewhere else ""
