"""``nas report``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from nas.commands.run_folder import results_of

if TYPE_CHECKING:
    from nas.cli import Report


def report_run(command: Report) -> None:
    """``nas report``."""
    from nas.deploy.report import View, print_report, render

    results = results_of(command.run)
    paths = render(results, command.run)
    console = Console()
    print_report(View(results), console)
    console.print(f"Drawn: {paths.html}, {paths.png}")
