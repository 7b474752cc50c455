"""The command line. Nothing heavy is imported here: `--help` and completion answer at once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from latflow.app import recipes_index

app = typer.Typer(
    name="latflow",
    help="Exact sampling of lattice field theories with trained flows.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=(
        "Exit status: 0 done, 2 a mistake or a fault (one message says what to do), 130 or 143 stopped by Ctrl-C or SIGTERM "
        "after a checkpoint: the same command resumes."
    ),
)


def _complete_target(incomplete: str) -> list[str]:
    return [name for name in recipes_index.names() if name.startswith(incomplete)]


def _complete_setting(incomplete: str) -> list[str]:
    from latflow.app.config.schema import paths

    return [f"{path}=" for path in paths() if path.startswith(incomplete)]


Target = Annotated[
    str, typer.Argument(metavar="RECIPE|FILE.toml|RUN_DIR", help="What to run.", autocompletion=_complete_target)
]
Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe.", autocompletion=_complete_target)]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change a setting, e.g. train.batch_size=128. Repeatable.",
        autocompletion=_complete_setting,
    ),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Run directory [default: runs/NAME].")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of all random numbers.")]
Fresh = Annotated[
    bool, typer.Option("--fresh/--resume", help="Discard what the run directory holds, or continue it [default: --resume].")
]
Device = Annotated[str | None, typer.Option("--device", metavar="cpu|gpu", help="Where to compute.")]
Precision = Annotated[str | None, typer.Option("--precision", metavar="single|double", help="Precision of the fields.")]
Reunitarise = Annotated[bool, typer.Option("--reunitarise", help="Accept links off SU(3) and pull them back.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(f"latflow {version('latflow')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    pass


def _guarded(action: Callable[[Any], int | None], as_json: bool, quiet: bool, debug: bool) -> None:
    """Run a command: its result on stdout, a mistake as one message, the exit status."""
    from latflow.app.output import Output, silence_background
    from latflow.errors import Interrupted

    if not debug:
        silence_background()
    with Output(as_json, quiet).guard() as output:
        try:
            status = action(output) or 0
        except Exception as error:
            if debug:
                raise
            message, status = explain(error), 128 + error.signum if isinstance(error, Interrupted) else 2
            output.emit({"error": message, "exit_status": status}) if as_json else print(f"Error: {message}", file=sys.stderr)
    raise typer.Exit(status)


def explain(error: Exception) -> str:
    """What the user reads instead of a traceback."""
    import errno

    from latflow.errors import LatflowError

    if isinstance(error, LatflowError):
        return str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        where = f" while writing {error.filename}" if error.filename else ""
        return f"the disk is full{where}. Earlier data are intact: free some space and run the same command again to resume."
    if isinstance(error, OSError):
        return str(error)
    return f"{type(error).__name__}: {error}\nThis is a bug, not a mistake of yours; --debug shows where it happened."


def _stage_command(name: str, summary: str) -> None:
    def command(
        target: Target,
        settings: Settings = None,
        out: Out = None,
        seed: Seed = None,
        fresh: Fresh = False,
        device: Device = None,
        precision: Precision = None,
        quiet: Quiet = False,
        as_json: Json = False,
        debug: Debug = False,
    ) -> None:
        def action(output: Any) -> int | None:
            from latflow.app.session import execute

            overrides = list(settings or ())
            for key, value in (("seed", seed), ("device", device), ("precision", precision)):
                if value is not None:
                    overrides.append(f"{key}={value}")
            return execute(name, target, overrides, out, fresh, output)

        _guarded(action, as_json, quiet, debug)

    app.command(name, help=summary)(command)


for _name, _summary in {
    "run": "Train a flow (or resume), draw an exact ensemble, measure, run the baseline, compare, write the report.",
    "train": "Train the flow only.",
    "sample": "Draw proposals from the trained flow and run the exact Metropolis chain.",
    "compare": "Run the baseline sampler and compare flow, reweighting, baseline and exact results.",
    "report": "Write report.html from what the run directory holds.",
}.items():
    _stage_command(_name, _summary)


def _complete_figure(incomplete: str) -> list[str]:
    from latflow.app.reproduce import FIGURES

    return [name for name in FIGURES if name.startswith(incomplete)]


@app.command()
def reproduce(
    name: Annotated[
        str, typer.Argument(metavar="FIGURE", help="fig2 to fig7, qcd-fig2 or qcd-fig3.", autocompletion=_complete_figure)
    ],
    budget: Annotated[
        str, typer.Option("--budget", metavar="minutes|paper", help="What two cores do soon, or the size of the paper.")
    ] = "minutes",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Directory [default: runs/reproduce/BUDGET].")] = None,
    fresh: Fresh = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a figure of a published paper anew, beside the paper's numbers; resumes."""

    def action(output: Any) -> None:
        from latflow.app.reproduce import reproduce as make

        found = make(name, budget, out, fresh, output)
        if output.as_json:
            return output.emit(found)
        width = max(len(row["quantity"]) for row in found["numbers"])
        output.text(f"{'':<{width}}  {'paper':<20}  here")
        for row in found["numbers"]:
            output.text(f"{row['quantity']:<{width}}  {row['paper']:<20}  {row['here']}")
        output.text(f"Figure: {found['page']}")

    _guarded(action, as_json, quiet, debug)


@app.command()
def recipes(as_json: Json = False, debug: Debug = False) -> None:
    """List the recipes with the time they take."""

    def action(output: Any) -> None:
        rows = recipes_index.summaries()
        if output.as_json:
            return output.emit({"recipes": rows})
        width = max(len(row["name"]) for row in rows)
        times = max(len(row["expected_time"]) for row in rows)
        for row in rows:
            output.text(f"{row['name']:<{width}}  {row['expected_time']:<{times}}  {row['description']}")

    _guarded(action, as_json, False, debug)


@app.command()
def show(recipe: Recipe, as_json: Json = False, debug: Debug = False) -> None:
    """Print the full TOML of a recipe, to copy and change."""

    def action(output: Any) -> None:
        from latflow.app.targets import load

        config, _ = load(recipe, [])
        file = recipes_index.path(recipe) or Path(recipe)
        text = file.read_text(encoding="utf-8") if file.is_file() else (file / "config.toml").read_text(encoding="utf-8")
        if output.as_json:
            return output.emit(
                {"recipe": config.name, "toml": text, "config": config.model_dump(mode="json", exclude_none=True)}
            )
        output.text(text.rstrip("\n"))

    _guarded(action, as_json, False, debug)


@app.command()
def measure(
    targets: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE|FILE.toml|RUN_DIR|FILE...", help="A run, or configuration files in order."),
    ],
    settings: Settings = None,
    out: Out = None,
    fresh: Fresh = False,
    device: Device = None,
    observables: Annotated[
        list[str] | None, typer.Option("--observable", help="For files: what to measure [default: all]. Repeatable.")
    ] = None,
    flow_to: Annotated[
        float | None,
        typer.Option("--flow-to", metavar="T", help="For files: gradient flow up to the time T, with t_0, w_0 and Q(t)."),
    ] = None,
    flow_every: Annotated[
        float | None, typer.Option("--flow-every", metavar="DT", help="Distance of flow times [default: 0.1].")
    ] = None,
    flow_step: Annotated[
        float | None, typer.Option("--flow-step", metavar="EPS", help="Largest step of the gradient flow [default: 0.02].")
    ] = None,
    reunitarise: Reunitarise = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Estimate observables with errors, from the ensemble of a run or from configuration files of any code."""

    def action(output: Any) -> int | None:
        from latflow.app import configurations
        from latflow.errors import LatflowError

        if not any(configurations.is_file_of_links(target) for target in targets):
            if len(targets) > 1:
                raise LatflowError(f"{targets[0]} is not a configuration file", "give one run, or only configuration files")
            if any(option is not None for option in (flow_to, flow_every, flow_step)):
                raise LatflowError("--flow-to is for configuration files", "a run measures at its measure.flow_times")
            from latflow.app.session import execute

            overrides = [*(settings or ()), *([] if device is None else [f"device={device}"])]
            return execute("measure", targets[0], overrides, out, fresh, output)
        from latflow.app.device import configure
        from latflow.app.progress import Progress

        configure(device or "auto")
        configurations.double_precision()
        gradient_flow = configurations.flow_through(flow_to, flow_every, flow_step)
        with Progress("measure", len(targets), 0, (), output.quiet) as progress:
            document = configurations.measure(
                [Path(target) for target in targets],
                observables,
                reunitarise,
                lambda done, _: progress.update(done),
                gradient_flow,
            )
        output.emit(document) if output.as_json else output.text(configurations.render_measurements(document))
        return None

    _guarded(action, as_json, quiet, debug)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A configuration, NERSC or ILDG.")],
    destination: Annotated[Path, typer.Argument(metavar="OUT", help="Where to write it; .lime, .ildg, .nersc name a format.")],
    format: Annotated[str | None, typer.Option("--format", metavar="nersc|ildg", help="Format of OUT.")] = None,
    precision: Precision = None,
    rows: Annotated[int | None, typer.Option("--rows", metavar="2|3", help="Rows of every matrix, for NERSC.")] = None,
    reunitarise: Reunitarise = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Convert a gauge configuration between formats and precisions; checked while read, written whole or not at all."""

    def action(output: Any) -> None:
        from latflow.app import configurations
        from latflow.app.progress import slices_of

        configurations.double_precision()
        with slices_of("convert", "nothing was written", output.quiet) as note:
            done = configurations.convert(source, destination, format, precision, rows, reunitarise, force, note)
        text = f"{done['to']}: {done['format'].upper()}, {'x'.join(map(str, done['lattice']))}"
        output.emit(done) if output.as_json else output.text(text)

    _guarded(action, as_json, quiet, debug)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="RUN_DIR|FILE", help="A run directory or a configuration file.")],
    reunitarise: Reunitarise = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Describe a run directory (configuration, progress, model, files) or a configuration file, verified."""

    def action(output: Any) -> None:
        from latflow.app import configurations, inspection
        from latflow.app.progress import slices_of

        if configurations.is_file_of_links(path):
            configurations.double_precision()
            with slices_of("inspect", "the file was not read to its end", output.quiet) as note:
                description, text = configurations.describe(path, reunitarise, note), configurations.render
        else:
            description, text = inspection.describe(path), inspection.render
        output.emit(description) if output.as_json else output.text(text(description))

    _guarded(action, as_json, quiet, debug)


def main() -> None:
    """Entry point: every way to fail ends in one message, as JSON where JSON was asked for."""
    try:
        status = app(standalone_mode=False)
    except KeyboardInterrupt:
        status = _fail("interrupted", 130)
    except Exception as error:  # wrong options, reported by the option parser
        if not hasattr(error, "format_message") or "--debug" in sys.argv:
            raise
        status = _fail(error.format_message(), getattr(error, "exit_code", 2))  # type: ignore[attr-defined]
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> int:
    if "--json" in sys.argv:
        import json

        print(json.dumps({"error": message, "exit_status": status}))
    else:
        print(f"Error: {message}\nTry 'latflow --help'." if status == 2 else message, file=sys.stderr)
    return status
