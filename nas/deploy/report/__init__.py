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
from nas.files import write_bytes_atomic, write_text_atomic

__all__ = [
    "ReportPaths",
    "ResultsError",
    "View",
    "load",
    "print_report",
    "render",
    "summary",
    "validate",
]


@dataclass(frozen=True)
class ReportPaths:
    """Where the report was written."""

    html: Path
    png: Path


def render(results: dict[str, Any] | str | Path, out_dir: str | Path) -> ReportPaths:
    """Write ``report.html`` and ``front.png``, each whole or not at all.

    Args:
        results: the results of a run (schema 1), or the path of its ``results.json`` or folder.
        out_dir: the run folder; made if absent. The report names its ``winners/`` folder.

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
    paths = ReportPaths(out_dir / "report.html", out_dir / "front.png")
    write_bytes_atomic(paths.png, png)
    write_text_atomic(paths.html, page)
    return paths
