"""What RECIPE|FILE.toml|RUN_DIR on the command line stands for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from latflow.app import recipes_index
from latflow.app.config import Config, read
from latflow.errors import LatflowError


def load(target: str, overrides: Sequence[str]) -> tuple[Config, Path | None]:
    """(configuration, run directory if the target is one). Raises LatflowError if there is no such thing."""
    path = Path(target)
    if (recipe := recipes_index.path(target)) is not None:
        return read(recipe, overrides), None
    if path.is_dir():
        if not (path / "config.toml").is_file():
            raise LatflowError(f"{target} is a directory but not a run directory: it holds no config.toml")
        return read(path / "config.toml", overrides), path
    if path.suffix == ".toml" or path.exists():
        if not path.exists():
            raise LatflowError(f"no such file: {target}")
        return read(path, overrides), None
    raise LatflowError(f"there is no recipe, file or run directory named {target!r}{recipes_index.did_you_mean(target)}")
