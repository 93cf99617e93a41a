"""report.html: the page's rows, cards and texts, put into the template with everything escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from nas.deploy.report import figures
from nas.deploy.report.layers import PATTERNS, cards
from nas.deploy.report.table import paths, quality_rows, rows
from nas.deploy.report.units import MISSING, NBSP, Metric, number, percent
from nas.deploy.report.usage import usage
from nas.deploy.report.verdict import key_figures, random_text, verdict
from nas.deploy.report.view import View

OPEN_CARDS = 9  # the baseline and eight winners; more are a click away
_LEGEND = (
    ("trials", "trials", '<circle cx="8" cy="8" r="3.2" fill="var(--trial)"/>'),
    (
        "random",
        "random search's front",
        '<path d="M8 2.5 13.5 8 8 13.5 2.5 8Z" fill="none" stroke="var(--random)" stroke-width="1.8"/>',
    ),
    (
        "predicted",
        "predicted",
        '<path d="M8 0V4M8 12V16" stroke="var(--winner)"/><circle cx="8" cy="8" r="4" fill="none" stroke="var(--winner)"/>',
    ),
    (
        "measured",
        "measured, verified",
        '<circle cx="8" cy="8" r="7" fill="var(--winner)"/>',
    ),
    (
        "failed",
        "measured, failed",
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
    drawn = {"trials": view.trials, "random": view.random.get("front"), "predicted": view.winners}
    drawn |= {"measured": "verified" in statuses, "failed": "failed" in statuses, "baseline": True}
    return template.render(
        view=view,
        title=_title(view),
        level=percent(view.interval_level),
        options=_options(view),
        axes=figures.default_axes(view),
        legend=[entry for entry in _LEGEND if drawn[entry[0]]],
        front_alt=_front_alt(view),
        hypervolume_alt=_hypervolume_alt(view),
        has_hypervolume=bool(
            view.results.get("hypervolume_trace") or view.random.get("trace_mean")
        ),
        claims=_claims(view),
        verdict=verdict(view),
        key_figures=key_figures(view),
        rows=rows(view),
        paths=paths(view),
        patterns=list(PATTERNS.values()),
        cards=cards(view),
        num_open=OPEN_CARDS,
        surrogate=quality_rows(view),
        samples=_samples(view),
        use=usage(view, out_dir),
        command=str(view.results.get("command") or ""),
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
    parts = ["Sparse GPT search"]
    for name, word in (("space", "space"), ("corpus", "text"), ("device", "on")):
        text = str(view.provenance.get(name) or "")
        if len(text) > 48:  # a path, say; the whole of it stands under provenance
            text = f"{text[:16]}...{text[-28:]}"
        parts += [f"{word} {text}"] if text else []
    return " · ".join(parts)


def _front_alt(view: View) -> str:
    x, y = (view.metrics[i] for i in figures.default_axes(view))
    return (
        f"{y.label} over {x.label}: {len(view.trials)} trials, {len(view.winners)} winners of which "
        f"{len(view.verified)} verified, the dense baseline and random search's front. {verdict(view)} "
        "The table of winners below holds the figures."
    )


def _hypervolume_alt(view: View) -> str:
    if view.hypervolume is None:
        return ""
    return f"The search ends at {view.hypervolume:.3f}; {random_text(view)}."


def _claims(view: View) -> list[tuple[int, Metric]]:
    """Objectives of which some winner has both an interval and a measurement."""
    return [
        (i, metric)
        for i, metric in enumerate(view.metrics)
        if any(metric.name in w.predicted and metric.name in w.measured for w in view.winners)
    ]


def _options(view: View) -> list[str]:
    """Objectives in selection lists: without the workload where that is clear, as narrow screens cut long options."""
    titles = [m.title for m in view.metrics]
    return [m.title if titles.count(m.title) == 1 else m.label for m in view.metrics]


def _samples(view: View) -> list[tuple[str, str]]:
    winners = sorted((w for w in view.winners if w.sample), key=lambda w: w is not view.fastest)
    return [(w.name, w.sample) for w in winners]


_NAMES = {"wall_s": "wall time,", "versions": "", "num_tokens": "tokens per perplexity"}


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested provenance as (name, text) pairs."""
    if isinstance(value, dict):
        for key, item in value.items():
            word = _NAMES.get(key, str(key).replace("_", " "))
            yield from _flatten(item, f"{name} {word}".strip())
    elif isinstance(value, list):
        yield name, ", ".join(str(item) for item in value)
    else:
        yield name, _fact(name, value)


def _fact(name: str, value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: MISSING}[value]
    if name.startswith("wall time") and isinstance(value, int | float):
        return f"{value:.0f}{NBSP}s"
    if isinstance(value, float):
        return number(value)
    text = str(value)
    if name == "cardinality" and text.isdecimal() and len(text) > 9:
        return f"{text[0]}.{text[1:3]}{NBSP}×{NBSP}10^{len(text) - 1} architectures"
    if isinstance(value, int) and 10_000 <= value < 10**15:
        return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return text
