"""The winners' table and the surrogates' table of report.html, cell by cell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nas.deploy.report.describe import plural
from nas.deploy.report.units import MISSING, Metric, percent, ratio
from nas.deploy.report.verdict import random_text
from nas.deploy.report.view import PERPLEXITY_LIMIT, RandomPoint, Status, View, Winner
from search_spaces import Architecture

STATES: dict[Status, str] = {
    "verified": "verified",
    "failed": "failed",
    "unmeasured": "not measured",
}


@dataclass(frozen=True)
class Cell:
    """One value of the table: its text, a ratio below it, and whether it is only a prediction."""

    text: str
    sub: str = ""
    is_claim: bool = False


@dataclass(frozen=True)
class Row:
    """One line of the winners' table."""

    name: str
    about: str
    cells: list[Cell]
    status: str = ""
    state: str = ""
    css: str = ""
    link: str = ""
    note: str = ""
    why: list[str] = field(default_factory=list)


def rows(view: View) -> list[Row]:
    """The dense baseline, random search, then every winner."""
    return [_baseline_row(view), *_random_rows(view), *(_winner_row(w, view) for w in view.winners)]


def _factor(metric: Metric, value: float | None, view: View, speedup: float | None = None) -> str:
    dense = view.baseline.get(metric.name)
    if value is None or not dense:
        return ""
    if metric.is_latency:
        speedup = speedup if speedup is not None else dense / value if value else None
        return f"{ratio(speedup)} as fast" if speedup is not None else ""
    return f"{ratio(value / dense)} dense"


def _baseline_row(view: View) -> Row:
    cells = [Cell(m.format(view.baseline.get(m.name))) for m in view.table_metrics]
    note = f"fastest dense path: {view.baseline_path}" if view.baseline_path else "the reference"
    return Row(
        "dense baseline",
        _size(view.baseline_architecture),
        cells,
        "baseline",
        "measured",
        "reference",
        note=note,
    )


def _random_rows(view: View) -> list[Row]:
    if not view.random:
        return []
    best = view.random_best
    cells = [_random_cell(m, best, view) for m in view.table_metrics]
    label = "no point on its front"
    if best:
        limit = f"within {ratio(PERPLEXITY_LIMIT)} perplexity"
        label = (
            f"its best {limit}" if best.is_within_limit else f"its most accurate; none is {limit}"
        )
    note = f"hypervolume: {random_text(view).removeprefix('random search ')}"
    return [
        Row(
            "random search, as many trials",
            label,
            cells,
            "unmeasured",
            "not measured",
            "reference",
            note=note,
        )
    ]


def _random_cell(metric: Metric, best: RandomPoint | None, view: View) -> Cell:
    value = best.values.get(metric.name) if best else None
    return Cell(metric.format(value), _factor(metric, value, view), is_claim=value is not None)


def _winner_row(winner: Winner, view: View) -> Row:
    cells = []
    for metric in view.table_metrics:
        value, claim = winner.measured.get(metric.name), winner.predicted.get(metric.name)
        if value is not None:
            speedup = winner.speedup if metric == view.latency else None
            cells.append(Cell(metric.format(value), _factor(metric, value, view, speedup)))
        elif claim:
            cells.append(
                Cell(metric.format(claim.mean), _factor(metric, claim.mean, view), is_claim=True)
            )
        else:
            cells.append(Cell(metric.format(None)))
    why = [f"{Metric(c.name, c.unit).label}: {c.text}" for c in winner.failed_checks]
    if winner.status == "failed" and not why:
        why = ["no reason was recorded"]
    passed = len(winner.checks) - len(winner.failed_checks)
    note = f"{passed} of {len(winner.checks)} checks passed" if winner.checks else ""
    return Row(
        winner.name,
        _size(winner.architecture),
        cells,
        winner.status,
        STATES[winner.status],
        link=winner.anchor,
        note=note,
        why=why,
    )


def _size(architecture: Architecture) -> str:
    return f"{plural(architecture.depth, 'layer')}, width {architecture.embed_dim}"


def paths(view: View) -> list[str]:
    """Every dense path with its time, or with the reason that it could not run."""
    metric = view.latency or Metric("decode_ms")
    found = view.results["baseline"].get("paths") or {}
    return [
        f"{name}: {metric.format(ms) if isinstance(ms, int | float) else ms}"
        for name, ms in found.items()
    ]


def quality_rows(view: View) -> list[list[str]]:
    """One line for every surrogate: metric, records, rank agreement, error, coverage."""
    return [_quality(Metric(name), quality) for name, quality in view.surrogate.items()]


def _quality(metric: Metric, quality: dict[str, Any]) -> list[str]:
    def show(name: str, write: Any) -> str:
        return str(write(quality[name])) if quality.get(name) is not None else MISSING

    level = quality.get("interval_level")
    coverage = show("coverage", lambda v: percent(v, 1))
    return [
        metric.label,
        show("num_records", lambda v: f"{v:.0f}"),
        show("kendall_tau", lambda v: f"{v:.3f}"),
        show("mape", lambda v: percent(v, 1)),
        f"{coverage}, asked {percent(level)}" if level else coverage,
    ]
