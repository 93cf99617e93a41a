"""What the page's charts draw: plain values and ready texts, as JSON for ``charts.js``; no drawing here."""

from __future__ import annotations

import json
from typing import Any

from nas.deploy.report.describe import describe
from nas.deploy.report.units import Metric
from nas.deploy.report.view import View, Winner
from search_spaces import Architecture


def payload(view: View) -> dict[str, Any]:
    """Everything ``charts.js`` needs.

    Args:
        view: the report's content.

    Returns:
        JSON values: ``metrics``, the points of the front (trials, random search, winners, baseline), ``hypervolume``.
    """
    return {
        "metrics": [_metric(m, spans_decades(shown_values(view, m.name))) for m in view.metrics],
        "x": default_axes(view)[0],
        "y": default_axes(view)[1],
        "trials": [
            _searched(f"trial {t.get('number', i)}", t, view) for i, t in enumerate(view.trials)
        ],
        "random": [
            _searched(f"random search, point {i}", p, view)
            for i, p in enumerate(view.random.get("front") or [], 1)
        ],
        "winners": [_winner(w, view) for w in view.winners],
        "baseline": {
            "title": "dense baseline" + (f", {view.baseline_path}" if view.baseline_path else ""),
            "values": [view.baseline.get(m.name) for m in view.metrics],
            "rows": [[m.label, None, m.format(view.baseline.get(m.name))] for m in view.metrics],
            "architecture": describe(view.baseline_architecture),
        },
        "hypervolume": _hypervolume(view),
        "level": view.interval_level,
        "first": view.fastest.number if view.fastest else 1,
    }


def default_axes(view: View) -> tuple[int, int]:
    """Indices of the objectives first drawn on x and y: latency against perplexity where there are such."""
    names = [m.name for m in view.metrics]
    y = names.index("perplexity") if "perplexity" in names else 0
    others = [i for i in range(len(names)) if i != y] or [y]
    x = next((i for i in others if view.metrics[i].is_latency), others[0])
    return x, y


def shown_values(view: View, name: str) -> list[float]:
    """Every value of a metric that the first view must hold: baseline, winners with intervals, random search's front."""
    rows = [view.baseline, *(w.measured for w in view.winners)]
    rows += [p["values"] for p in view.random.get("front") or []]
    claims = [w.predicted[name] for w in view.winners if name in w.predicted]
    values = [row[name] for row in rows if name in row]
    return values + [end for claim in claims for end in (claim.low, claim.high)]


def spans_decades(values: list[float]) -> bool:
    """Whether values are better read on a logarithmic axis."""
    return bool(values and min(values) > 0 and max(values) > 8 * min(values))


def to_script(value: dict[str, Any]) -> str:
    """JSON that is safe inside a ``<script>`` element: no tag can begin or end in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _metric(metric: Metric, is_log: bool) -> dict[str, str | bool]:
    return {
        "name": metric.name,
        "log": is_log,
        "label": metric.label,
        "axis": metric.axis,
        "title": metric.title + (metric.axis.removeprefix(metric.label)),
        "workload": metric.workload,
        "tickformat": "~s" if metric.has_prefix else "",
        "suffix": "B" if metric.unit == "bytes" else "",
    }


def _searched(title: str, fields: dict[str, Any], view: View) -> dict[str, Any]:
    values = [fields["values"].get(m.name) for m in view.metrics]
    return {
        "title": title,
        "values": values,
        "rows": [[m.label, m.format(v), None] for m, v in zip(view.metrics, values, strict=True)],
        "architecture": describe(Architecture.from_json(fields["architecture"])),
    }


def _winner(winner: Winner, view: View) -> dict[str, Any]:
    claims = [winner.predicted.get(m.name) for m in view.metrics]
    measured = [winner.measured.get(m.name) for m in view.metrics]
    rows: list[list[str | None]] = []
    for metric, claim, value in zip(view.metrics, claims, measured, strict=True):
        text = None
        if claim:
            text = metric.format(claim.mean)
            if claim.low < claim.high:
                text += f" ({metric.format(claim.low)} to {metric.format(claim.high)})"
        rows.append([metric.label, text, None if value is None else metric.format(value)])
    return {
        "title": winner.name,
        "number": winner.number,
        "status": winner.status,
        "predicted": [[c.mean, c.low, c.high] if c else None for c in claims],
        "measured": measured,
        "rows": rows,
        "architecture": describe(winner.architecture),
    }


def _hypervolume(view: View) -> dict[str, Any] | None:
    trace = view.results.get("hypervolume_trace") or []
    mean, std = view.random.get("trace_mean") or [], view.random.get("trace_std") or []
    if not trace and not mean:
        return None
    spread = std if len(std) == len(mean) else [0.0] * len(mean)
    return {
        "search": trace,
        "random": mean,
        "low": [m - s for m, s in zip(mean, spread, strict=True)],
        "high": [m + s for m, s in zip(mean, spread, strict=True)],
        "sampler": str(view.provenance.get("sampler") or "search"),
    }
