"""The ensemble of a stored prior, `prior.h5`: drawn by heatbath, or read from configuration files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Inexact

from latflow import interrupt
from latflow.app import builders
from latflow.app.config.prior import EnsemblePrior, ExactPrior, FilesPrior
from latflow.app.stages import tuning
from latflow.app.stages.baseline import start_fields
from latflow.app.stages.context import Context
from latflow.errors import LatflowError
from latflow.io.configuration import read_configuration
from latflow.io.ensemble import EnsembleFile
from latflow.kernels import heatbath_sweep
from latflow.samplers import run_chain


def prepared(context: Context) -> Any:
    """What `builders.build_model` needs of the prior: configurations, a tuned prior, or nothing."""
    config = context.config.prior
    return tuning.tuned(context) if isinstance(config, ExactPrior) and config.is_tuned else stored(context)


def prepare(context: Context) -> None:
    """Tune the prior if it is one that is tuned and has not been yet."""
    config = context.config.prior
    if isinstance(config, ExactPrior) and config.is_tuned:
        tuning.tuned(context)


def stored(context: Context) -> Inexact[Array, "n ..."] | None:
    """The configurations of the prior, made or read first if need be; None for a prior that draws its own.

    They come row by row, each row one configuration of every chain, so that a prefix of whole rows has all chains.
    """
    config = context.config.prior
    if isinstance(config, EnsemblePrior):
        _draw(context, config)
    elif isinstance(config, FilesPrior):
        _read(context, config)
    else:
        return None
    with EnsembleFile.open(context.run.prior) as file:
        file.require(kind="chain", theory=_theory(context))
        found = file.read("configurations")
    return jnp.asarray(found.reshape(-1, *context.boson.field_shape))


def facts(context: Context) -> dict[str, Any] | None:
    """What an analysis of the mapped ensemble must know: {"kind", "beta", "chains"}; None for other priors."""
    config = context.config.prior
    if not isinstance(config, EnsemblePrior | FilesPrior):
        return None
    chains = config.chains if isinstance(config, EnsemblePrior) else 1
    return {"kind": config.kind, "beta": config.beta, "chains": chains}


def _theory(context: Context) -> dict[str, Any]:
    return {**context.theory, "beta": context.config.prior.beta}  # type: ignore[union-attr]


def _committed(context: Context) -> int:
    if not context.run.prior.exists():
        return 0
    with EnsembleFile.open(context.run.prior) as file:
        file.require(kind="chain", theory=_theory(context))
        return file.n_committed


def _draw(context: Context, config: EnsemblePrior) -> None:
    rows = config.configurations // config.chains
    if _committed(context) >= rows:
        return
    action = builders.at_coupling(context.boson, config.beta)
    start_key, chain_key = jax.random.split(context.key("prior"))
    total = config.thermalisation + rows * config.separation
    context.run.provenance.update("prior", complete=False)
    with context.timed("prior") as timer, context.progress("prior", total) as progress:

        def on_progress(done: int, total: int) -> None:
            progress.update(done)
            timer.tick()

        run_chain(
            heatbath_sweep(action, config.overrelaxation),
            start_fields(context, config.start, start_key, config.chains),
            context.run.prior,
            chain_key,
            rows * config.separation,
            thermalisation=config.thermalisation,
            measure_every=config.separation,
            save_every=1,
            theory=_theory(context),
            settings={"precision": context.config.precision, "start": config.start, "overrelaxation": config.overrelaxation},
            on_progress=on_progress,
            stop=context.stop,
        )
    context.run.provenance.update("prior", complete=True, configurations=config.configurations)


def _read(context: Context, config: FilesPrior) -> None:
    paths = _expanded(config.files)
    done = _committed(context)
    names = [str(path) for path in paths]
    if done >= len(paths):
        return
    shape, dtype = context.boson.field_shape, builders.setting(context.config).field_dtype
    context.run.provenance.update("prior", complete=False)
    with (
        context.timed("prior"),
        context.progress("prior", len(paths), done) as progress,
        EnsembleFile.open_or_create(
            context.run.prior,
            "chain",
            _theory(context),
            {"configurations": ((1, *shape), dtype)},
            settings={"files": names, "precision": context.config.precision},
            capacity=len(paths),
        ) as file,
    ):
        for path in paths[file.n_committed :]:
            found = read_configuration(path)
            if tuple(found.lattice) != context.boson.geometry.shape:
                raise LatflowError(
                    f"{path} is of the lattice {list(found.lattice)}, the theory of {list(context.boson.geometry.shape)}",
                    "set theory.lattice (t, x, y, z) to that of the files",
                )
            file.append({"configurations": np.asarray(found.links, dtype)[None, None]})
            progress.update(file.n_committed)
            interrupt.check(context.stop, f"{file.n_committed} of {len(paths)} files")
    context.run.provenance.update("prior", complete=True, configurations=len(paths))


def _expanded(patterns: tuple[str, ...]) -> list[Path]:
    """The files that the patterns name, each pattern's in the order of the numbers in their names."""

    def order(path: Path) -> list[Any]:
        parts = re.split(r"(\d+)", str(path))
        return [int(part) if part.isdigit() else part for part in parts]

    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        anchor = Path(path.anchor or ".")
        matches = [path] if path.is_file() else sorted(anchor.glob(str(path.relative_to(path.anchor))), key=order)
        if not matches:
            raise LatflowError(f"prior.files: there is no file {pattern!r}", "give paths relative to where latflow is run")
        found += [match for match in matches if match not in found]
    return found
