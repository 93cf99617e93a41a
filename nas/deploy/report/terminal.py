"""The report as tables in the terminal."""

from __future__ import annotations

from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from nas.deploy.report.units import MISSING, Metric, percent, ratio
from nas.deploy.report.verdict import random_text, verdict
from nas.deploy.report.view import RandomPoint, View, Winner

_CLAIM = "dim italic"  # a prediction never looks like a measurement
_STYLES = {"verified": "green", "failed": "bold red", "unmeasured": _CLAIM}
_STATES = {"verified": "✓ passed", "failed": "✕ failed", "unmeasured": "unmeasured"}


def print_report(view: View, console: Console | None = None) -> None:
    """Print winners, baseline, random search, surrogate quality and the verdict.

    Args:
        view: the report's content.
        console: where to; the standard output by default.
    """
    console = console or Console()
    console.print(summary(view, console))


def summary(view: View, console: Console) -> Group:
    """The same as one rich renderable.

    Args:
        view: the report's content.
        console: whose width decides between rows and, where they do not fit, a block of lines for every model.
    """
    parts: list[RenderableType] = [_models(view, console.width)]
    parts += [_failure(w) for w in view.winners if w.status == "failed"]
    if view.surrogate:
        parts += [Text(), _surrogates(view), Text()]
    if view.hypervolume is not None:
        parts.append(Text(f"Hypervolume {view.hypervolume:.3f}; {random_text(view)}."))
    hits, total = view.intervals
    if total:
        parts.append(
            Text(
                f"{hits} of {total} measured values lie in their {percent(view.interval_level)} interval."
            )
        )
    parts.append(Text(verdict(view), style="bold"))
    return Group(*parts)


def _models(view: View, width: int) -> Table:
    rows = _rows(view)
    heads = [
        "Model",
        *(f"{m.title} {m.workload}".strip() for m in view.table_metrics),
        "Speed-up",
        "Verified",
    ]
    # Headers wrap between words and values do not: a table that cannot keep them whole becomes blocks of lines.
    needed = [
        max([max(map(cell_len, head.split())), *(cell_len(cells[i].plain) for cells in rows)])
        for i, head in enumerate(heads)
    ]
    table = _table("Winners, measured (≈ predicted only)")
    if sum(needed) + 2 * (len(needed) - 1) > width:
        table.add_column("Model", no_wrap=True)
        table.add_column("Figures", overflow="fold")
        for cells in rows:
            lines = [
                Text.assemble(f"{m.title} ", c)
                for m, c in zip(view.table_metrics, cells[1:], strict=False)
            ]
            lines += [Text.assemble("Speed-up ", cells[-2]), cells[-1]]
            table.add_row(cells[0], Text("\n").join(lines), end_section=True)
        return table
    fits = sum(max(cell_len(head), n) + 2 for head, n in zip(heads, needed, strict=True)) <= width
    for i, head in enumerate(heads):
        justify: Literal["left", "right"] = "left" if i in (0, len(heads) - 1) else "right"
        table.add_column(head, justify=justify, width=None if fits else needed[i])
    for cells in rows:
        table.add_row(*cells)
    return table


def _rows(view: View) -> list[list[Text]]:
    """Name, one value for every metric, speed-up, state: baseline, random search, then winners."""
    metrics = view.table_metrics
    dense = [Text(m.format(view.baseline.get(m.name))) for m in metrics]
    rows = [[Text("dense baseline"), *dense, Text(ratio(1.0)), Text("reference")]]
    if (best := view.random_best) is not None:
        speedup = Text(f"≈ {ratio(best.speedup)}" if best.speedup else MISSING, style=_CLAIM)
        found = [_random(m, best) for m in metrics]
        rows.append([Text("random search"), *found, speedup, Text("unmeasured", style=_CLAIM)])
    for w in view.winners:
        state = Text(_STATES[w.status], style=_STYLES[w.status])
        rows.append([Text(w.name), *(_cell(w, m) for m in metrics), Text(ratio(w.speedup)), state])
    return rows


def _table(title: str) -> Table:
    return Table(
        box=box.SIMPLE_HEAD,
        title=title,
        title_justify="left",
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )


def _cell(winner: Winner, metric: Metric) -> Text:
    if metric.name in winner.measured:
        return Text(metric.format(winner.measured[metric.name]))
    claim = winner.predicted.get(metric.name)
    return Text(f"≈ {metric.format(claim.mean)}", style=_CLAIM) if claim else Text(MISSING)


def _random(metric: Metric, best: RandomPoint) -> Text:
    value = best.values.get(metric.name)
    return Text(MISSING) if value is None else Text(f"≈ {metric.format(value)}", style=_CLAIM)


def _failure(winner: Winner) -> Text:
    reasons = [f"{Metric(c.name, c.unit).label}: {c.text}" for c in winner.failed_checks]
    return Text(
        f"✕ {winner.name} failed: {'; '.join(reasons) or 'no reason was recorded'}", style="red"
    )


def _surrogates(view: View) -> Table:
    table = _table("Surrogates, cross-validated")
    table.add_column("Metric", overflow="fold")
    for name in ("Records", "Tau", "MAPE", "Coverage"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, quality in view.surrogate.items():
        tau, records = quality.get("kendall_tau"), quality.get("num_records")
        table.add_row(
            Text(Metric(name).label),
            MISSING if records is None else f"{records:.0f}",
            MISSING if tau is None else f"{tau:.3f}",
            percent(quality.get("mape"), 1),
            percent(quality.get("coverage"), 1),
        )
    return table
