"""Runs of the command line in processes of their own, started quickly enough that many of them can be killed."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
from pathlib import Path

# A server that has imported everything but computed nothing is forked for every run: what is left of the start is what
# matters here. JAX may be forked as long as no backend exists.
_PRELOAD = ["latflow.app.cli", "latflow.app.session", "latflow.app.stages", "latflow.io.checkpoints", "fault_runs"]


def context() -> multiprocessing.context.BaseContext:
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(_PRELOAD)
    return server


def latflow(arguments: list[str], log: str, environment: dict[str, str], max_file_bytes: int | None) -> None:
    """Body of a process: `latflow ARGUMENTS`, with stdout and stderr going to LOG.out and LOG.err. No file may grow beyond
    `max_file_bytes`, which is how a full disk looks to the program."""
    os.environ.update(environment)
    if max_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    for number, suffix in ((1, ".out"), (2, ".err")):
        fd = os.open(log + suffix, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(fd, number)
        os.close(fd)
    sys.argv = ["latflow", *arguments]
    from latflow.app.cli import main

    main()


class Run:
    """One process of the command line."""

    def __init__(self, arguments: list[str], log: Path, environment: dict[str, str], max_file_bytes: int | None = None):
        self.log = log
        body = (arguments, str(log), environment, max_file_bytes)
        self.process = context().Process(target=latflow, args=body)  # type: ignore[attr-defined]
        self.process.start()

    def wait(self, seconds: float = 300.0) -> int:
        """Exit status, as a shell counts it for signals (negative)."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, "the run did not end"
        return self.process.exitcode

    @property
    def out(self) -> str:
        return self.log.with_name(self.log.name + ".out").read_text()

    @property
    def err(self) -> str:
        return self.log.with_name(self.log.name + ".err").read_text()
