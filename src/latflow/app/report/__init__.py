"""The page a run is judged by: `write_report` turns a run directory into one self-contained `report.html`."""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_report"]


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into the run directory and return its path.

    Reads nothing but the run directory. The page needs no network and no script; the same directory gives the same bytes.
    Parts of the run that are missing or damaged are replaced by a sentence.

    Raises FileError if `run_dir` is not a directory or the page cannot be written.
    """
    from latflow.app.report.page import write_page  # drawing libraries are loaded only when a page is drawn

    return write_page(Path(run_dir))
