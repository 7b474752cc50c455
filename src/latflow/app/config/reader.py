"""Reading, checking and writing configurations."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import TypeAdapter, ValidationError

from latflow.app.config.errors import ConfigError, describe
from latflow.app.config.overrides import apply
from latflow.app.config.root import Config, complete, cross_problems
from latflow.app.config.schema import SECTIONS
from latflow.errors import LatflowError


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """The raw tables. Raises ConfigError naming the line of a syntax error."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source, [("", f"not valid TOML: {error}")]) from error


def validate(raw: Mapping[str, Any], overrides: Sequence[str] = (), source: str = "the configuration") -> Config:
    """The configuration, overrides applied. Raises ConfigError with every mistake at once."""
    changed, problems = apply(dict(raw), overrides)
    full = complete(changed)
    config: Config | None = None
    try:
        config = Config.model_validate(full)
        sections: dict[str, Any] = {name: getattr(config, name) for name in Config.model_fields}
    except ValidationError as error:
        found = [describe(item, full) for item in error.errors(include_url=False)]
        problems += found
        wrong = {path.partition(".")[0].partition("[")[0] for path, _ in found}
        sections = {
            name: TypeAdapter(annotation).validate_python(full.get(name, {}))
            for name, annotation in SECTIONS.items()
            if name not in wrong
        }
    problems += list(cross_problems(sections))
    if problems or config is None:
        raise ConfigError(source, list(dict.fromkeys(problems)))
    return config


def read(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration in a TOML file. Raises LatflowError if it cannot be read, ConfigError if it is mistaken."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [("", f"not a UTF-8 text file ({error})")]) from error
    except OSError as error:
        raise LatflowError(f"cannot read {path}: {error.strerror}") from error
    return validate(parse_toml(text, str(path)), overrides, str(path))


def dumps(config: Config) -> str:
    """The resolved configuration as TOML; reading it back gives an equal configuration."""
    document = config.model_dump(mode="python", exclude_none=True)
    for name, table in document.items():
        if isinstance(table, dict) and "kind" in table:
            document[name] = {"kind": table.pop("kind"), **table}
    return tomli_w.dumps(document)
