"""The report of a run: ``report.html``, ``front.png`` and terminal tables, all from ``results.json`` alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.deploy.report.front_png import render_png
from nas.deploy.report.html import render_html
from nas.deploy.report.schema import ResultsError, load, validate
from nas.deploy.report.terminal import print_report, summary
from nas.deploy.report.view import View
from nas.files import write_bytes_atomic, write_json_atomic, write_text_atomic

__all__ = [
    "ReportPaths",
    "ResultsError",
    "View",
    "load",
    "print_report",
    "publish",
    "render",
    "report_paths",
    "summary",
    "validate",
]


@dataclass(frozen=True)
class ReportPaths:
    """Where the report was written."""

    html: Path
    png: Path


def render(
    results: dict[str, Any] | str | Path, out_dir: str | Path, name: str = "report.html"
) -> ReportPaths:
    """Write the page and its picture, each whole or not at all.

    Args:
        results: the results of a run (schema 1), or the path of its ``results.json`` or folder.
        out_dir: the run folder; made if absent. The report names its ``winners/`` folder.
        name: of the page. Beside ``report.html`` stands ``front.png``, beside ``mine.html`` stands
            ``mine.front.png``.

    Returns:
        The two paths.

    Raises:
        ResultsError: if the results are foreign, damaged or of another schema; nothing is written then.
        FileNotFoundError: if ``results`` is a path where no results are.
    """
    checked = load(results) if isinstance(results, str | Path) else validate(results)
    out_dir = Path(out_dir)
    view = View(checked)
    png = render_png(view)
    page = render_html(view, png, out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = report_paths(out_dir, name)
    write_bytes_atomic(paths.png, png)
    write_text_atomic(paths.html, page)
    return paths


def report_paths(out_dir: str | Path, name: str = "report.html") -> ReportPaths:
    """Where :func:`render` writes, whether or not it has."""
    folder = Path(out_dir)
    return ReportPaths(folder / name, folder / _beside(name, "front.png"))


def publish(results: dict[str, Any], out_dir: str | Path, name: str = "report.html") -> ReportPaths:
    """Write new results and draw them; a kill at any moment leaves no drawing beside results that it does not show.

    Args:
        results: schema 1.
        out_dir: the run folder; made if absent.
        name: of the page, as for :func:`render`; ``results.json`` is named likewise.

    Returns:
        Where the drawings are.

    Raises:
        ResultsError: as for :func:`render`; nothing is changed then.
    """
    validate(results)
    drawn = report_paths(out_dir, name)
    for old in (drawn.html, drawn.png):
        old.unlink(missing_ok=True)
    write_json_atomic(Path(out_dir) / _beside(name, "results.json"), results)
    return render(results, out_dir, name)


def _beside(page: str, file: str) -> str:
    """Name of a file that belongs to a page; those of ``report.html`` have the plain names of a run."""
    return file if page == "report.html" else f"{Path(page).stem}.{file}"
