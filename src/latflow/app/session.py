"""One invocation of a stage command: find the run, lock it, do what is missing, report the result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latflow.app.config import Config
from latflow.app.output import Output
from latflow.app.run_directory import RunDirectory
from latflow.app.targets import load
from latflow.errors import LatflowError
from latflow.interrupt import StopRequested

STAGES = ("train", "sample", "measure", "compare", "report")


def execute(command: str, target: str, overrides: Sequence[str], out: Path | None, fresh: bool, output: Output) -> None:
    """Run one stage, or all of them for "run", on what `target` names, and write the result. Raises LatflowError."""
    with StopRequested() as stop:
        config, found = load(target, overrides)
        path = out or found or Path("runs") / config.name
        if command == "report":
            _report_only(config, path, output)
            return
        if command not in ("run", "train") and not _can_start(command, config, path):
            raise LatflowError(f"{path} holds no run yet", f"start with `latflow run {target}` or `latflow train {target}`")
        from latflow.app import device
        from latflow.app.stages import Context, perform

        device.configure(config.device)
        with RunDirectory.open(path, config, command if fresh else None) as run:
            run.provenance.start_session(config.seed, device.describe())
            context = Context(config, run, output, stop)
            result: dict[str, Any] = {}
            for stage in STAGES if command == "run" else (command,):
                stop.check(f"what came before the {stage} stage")
                result = perform(stage, context)
            _present(command, {**result, "run_directory": str(path)}, output)


def _can_start(command: str, config: Config, path: Path) -> bool:
    return (path / "config.toml").is_file() or (command == "sample" and config.train.steps == 0)


def _report_only(config: Config, path: Path, output: Output) -> None:
    # Reads only what is committed, so it may look at a run that is still going on.
    from latflow.app.report import write_report

    if not (path / "config.toml").is_file():
        raise LatflowError(f"{path} holds no run to report on", f"start with `latflow run {config.name}`")
    _present("report", {"recipe": config.name, "report": str(write_report(path)), "run_directory": str(path)}, output)


def _present(command: str, result: dict[str, Any], output: Output) -> None:
    if output.as_json:
        output.emit(result)
    elif command == "report":
        output.text(str(result["report"]))
    elif command == "train" and "steps" not in result:
        output.text(f'Nothing to train: the flow is "none": {result["run_directory"]}')
    elif command == "train":
        output.text(f"Trained {result['steps']} steps, ESS {result['ess']}: {result['run_directory']}")
    else:
        from latflow.app.summary import print_summary

        print_summary(result, output.stream)
