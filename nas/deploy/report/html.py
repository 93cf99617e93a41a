"""report.html: the page's rows, cards and texts, put into the template with everything escaped."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from nas.deploy.report import figures
from nas.deploy.report.units import Metric, number, percent, ratio
from nas.deploy.report.view import PERPLEXITY_LIMIT, RandomPoint, Status, View, Winner
from search_spaces import Architecture, LayerConfig, Sparsity

_LEGEND = (
    ("trials", "trials of the search", '<circle cx="8" cy="8" r="3.2" fill="var(--trial)"/>'),
    (
        "random",
        "random search's front",
        '<path d="M8 2.5 13.5 8 8 13.5 2.5 8Z" fill="none" stroke="var(--random)" stroke-width="1.8"/>',
    ),
    (
        "predicted",
        "winners, predicted",
        '<path d="M8 0V16" stroke="var(--winner)"/>'
        '<circle cx="8" cy="8" r="4" fill="var(--bg)" stroke="var(--winner)" stroke-width="1.5"/>',
    ),
    ("measured", "winners, measured and verified", '<circle cx="8" cy="8" r="7" fill="var(--winner)"/>'),
    (
        "failed",
        "measured, failed a check",
        '<rect x="1.5" y="1.5" width="13" height="13" fill="var(--bad)"/>',
    ),
    (
        "baseline",
        "dense baseline",
        '<path d="M8 0 10 5.5 16 6 11.4 9.6 13 15.5 8 12 3 15.5 4.6 9.6 0 6 6 5.5Z" fill="var(--baseline)"/>',
    ),
)


def render_html(view: View, png: bytes, out_dir: Path) -> str:
    """The whole page.

    Args:
        view: the report's content.
        png: the front as a picture, shown where JavaScript is off.
        out_dir: the run folder, named in the instructions.

    Returns:
        One self-contained HTML document.
    """
    folder = resources.files("nas.deploy.report")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((folder / "template.html.j2").read_text(encoding="utf-8"))
    statuses = {w.status for w in view.winners}
    drawn = {"trials": view.results["trials"], "random": view.random.get("front"), "predicted": view.winners}
    drawn |= {"measured": "verified" in statuses, "failed": "failed" in statuses, "baseline": True}
    return template.render(
        view=view,
        title=_title(view),
        level=percent(view.interval_level),
        axes=figures.default_axes(view),
        legend=[entry for entry in _LEGEND if drawn[entry[0]]],
        front_alt=_front_alt(view),
        hypervolume_alt=_hypervolume_alt(view),
        has_hypervolume=bool(view.results.get("hypervolume_trace") or view.random.get("trace_mean")),
        claims=_claims(view),
        rows=[_baseline_row(view), *_random_rows(view), *(_winner_row(w, view) for w in view.winners)],
        paths=_paths(view),
        patterns=list(PATTERNS.values()),
        cards=_cards(view),
        num_open=OPEN_CARDS,
        surrogate=[_quality(Metric(name), quality) for name, quality in view.surrogate.items()],
        samples=_samples(view),
        use=_use(view, out_dir),
        provenance=list(_flatten(view.provenance)),
        data=figures.to_script(figures.payload(view)),
        charts=(folder / "charts.js").read_text(encoding="utf-8"),
        plotly=_plotly(),
        png=base64.b64encode(png).decode("ascii"),
    )


def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # slow to import, and needed for this page alone

    return str(get_plotlyjs()).replace("</script", "<\\/script")


def _title(view: View) -> str:
    about = [view.provenance.get(name) for name in ("space", "corpus", "device")]
    texts = [f"{prefix}{value}" for prefix, value in zip(("space ", "text ", "on "), about, strict=True) if value]
    return " · ".join(["Sparse GPT search", *texts])


def _front_alt(view: View) -> str:
    x, y = (view.metrics[i] for i in figures.default_axes(view))
    return (
        f"{y.label} over {x.label}: {len(view.results['trials'])} trials, {len(view.winners)} winners of which "
        f"{len(view.verified)} verified, the dense baseline and random search's front. {view.verdict} "
        "The table of winners below holds the figures."
    )


def _hypervolume_alt(view: View) -> str:
    if view.hypervolume is None:
        return ""
    return f"The search ends at {view.hypervolume:.3f}; {view.random_text}."


def _claims(view: View) -> list[tuple[int, Metric]]:
    """Objectives of which some winner has both an interval and a measurement."""
    return [
        (i, metric)
        for i, metric in enumerate(view.metrics)
        if any(metric.name in w.predicted and metric.name in w.measured for w in view.winners)
    ]


def _samples(view: View) -> list[tuple[str, str]]:
    winners = sorted((w for w in view.winners if w.sample), key=lambda w: w is not view.fastest)
    return [(w.name, w.sample) for w in winners]


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested provenance as (name, text) pairs."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flatten(item, f"{name} {key}".strip().replace("_", " "))
    elif isinstance(value, list):
        yield name, ", ".join(str(item) for item in value)
    else:
        yield name, _fact(name, value)


def _fact(name: str, value: Any) -> str:
    if name.startswith("wall s ") and isinstance(value, int | float):
        return f"{value:.0f} s"
    if isinstance(value, float):
        return number(value)
    text = f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") if isinstance(value, int) and value >= 10_000 else str(value)
    if name == "cardinality" and text.isdecimal() and len(text) > 9:
        return f"{text[0]}.{text[1:3]} × 10^{len(text) - 1} architectures"
    return text
