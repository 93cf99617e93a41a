"""front.png: the front as one picture, for a README or a paper."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from nas.deploy.report.figures import default_axes, shown_values, spans_decades
from nas.deploy.report.units import Metric, ratio
from nas.deploy.report.view import View, Winner
from nas.plot_style import FONT, INK, quiet_axes, quiet_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT, DPI = 1600, 960, 160  # pixels; read at half that width in a README
_WINNER, _BAD, _RANDOM, _TRIAL = "#0a5cad", "#b3261e", "#a85500", "#9aa5b1"


def render_png(view: View) -> bytes:
    """Perplexity against the other objectives, two panels at most: trials, random search, winners, baseline.

    Args:
        view: the report's content.

    Returns:
        A PNG of ``WIDTH x HEIGHT`` pixels.
    """
    with quiet_matplotlib():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)  # attaches itself: no global pyplot figure
        x, y = default_axes(view)
        across = [x, *(i for i in range(len(view.metrics)) if i not in (x, y))][:2]
        axes = figure.subplots(1, len(across), sharey=True, squeeze=False)[0]
        figure.subplots_adjust(left=0.085, right=0.98, top=0.85, bottom=0.115, wspace=0.07)
        for panel, index in zip(axes, across, strict=True):
            _draw(panel, view, index, y)
            _style(panel, view.metrics[index], view.metrics[y], panel is axes[0])
        entries = {
            label: handle
            for panel in axes
            for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            list(entries.values()), list(entries), loc="upper left", bbox_to_anchor=(0.075, 0.925), ncols=len(entries), frameon=False,
            prop={"family": FONT, "size": 8}, labelcolor=INK, handletextpad=0.3, columnspacing=1.2, borderaxespad=0,
        )  # fmt: skip
        figure.text(0.085, 0.95, _headline(view), family=FONT, size=11, color=INK, weight="bold")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": "sparse-gpt-nas"})
        return buffer.getvalue()


def _headline(view: View) -> str:
    best = view.fastest
    if best:
        return f"{ratio(best.speedup)} as fast as dense at {ratio(best.perplexity_ratio)} its perplexity, measured"
    return f"{len(view.verified)} of {len(view.winners)} winners verified"


def _draw(panel: Axes, view: View, x: int, y: int) -> None:
    names = view.metrics[x].name, view.metrics[y].name

    def points(values: list[dict[str, float]]) -> list[list[float]]:
        both = [v for v in values if names[0] in v and names[1] in v]
        return [[v[name] for v in both] for name in names]

    def scatter(values: list[dict[str, float]], label: str, **style: Any) -> None:
        at = points(values)
        if at[0]:
            panel.scatter(*at, label=label, **style)

    scatter([t["values"] for t in view.trials], "trials", s=12, c=_TRIAL, alpha=0.7, linewidths=0)
    scatter(
        [p["values"] for p in view.random.get("front") or []], "random search's front",
        s=34, marker="D", facecolors="none", edgecolors=_RANDOM, linewidths=1.3, zorder=3,
    )  # fmt: skip
    _draw_claims(panel, [w for w in view.winners if all(n in w.predicted for n in names)], names)
    is_crowded = len(view.winners) > 15  # numbers would cover one another
    for status, label, marker, color in (
        ("verified", "measured and verified", "o", _WINNER),
        ("failed", "failed a check", "s", _BAD),
    ):
        own = [
            w for w in view.winners if w.status == status and all(n in w.measured for n in names)
        ]
        scatter(
            [w.measured for w in own],
            label,
            s=34 if is_crowded else 95,
            marker=marker,
            c=color,
            edgecolors="white",
            linewidths=0.8,
            zorder=5,
        )
        for w in [] if is_crowded else own:
            at = (w.measured[names[0]], w.measured[names[1]])
            panel.annotate(
                str(w.number),
                at,
                ha="center",
                va="center_baseline",
                size=6.5,
                color="white",
                family=FONT,
                zorder=6,
            )
    scatter(
        [view.baseline],
        "dense baseline",
        s=150,
        marker="*",
        c=INK,
        edgecolors="white",
        linewidths=0.8,
        zorder=4,
    )
    _focus(panel, view, names)


def _draw_claims(panel: Axes, winners: list[Winner], names: tuple[str, str]) -> None:
    if not winners:
        return
    claims = [[w.predicted[n] for w in winners] for n in names]
    means = [[c.mean for c in axis] for axis in claims]
    errors = [
        [[max(0.0, c.mean - c.low) for c in axis], [max(0.0, c.high - c.mean) for c in axis]]
        for axis in claims
    ]
    panel.errorbar(
        means[0], means[1], xerr=errors[0], yerr=errors[1], fmt="o", ms=4.5, mfc="white", mec=_WINNER, ecolor=_WINNER,
        elinewidth=0.8, capsize=2, mew=1.1, label="predicted", zorder=4,
    )  # fmt: skip
    for w in winners:
        if all(n in w.measured for n in names):
            at = [[w.predicted[n].mean, w.measured[n]] for n in names]
            panel.plot(*at, ls=":", lw=0.9, c=_WINNER, zorder=3.5)


def _focus(panel: Axes, view: View, names: tuple[str, str]) -> None:
    """Look at winners, random search's front and the baseline: early trials can be far away."""
    if not view.winners:
        return
    for name, axis in zip(names, ("x", "y"), strict=True):
        values = shown_values(view, name)
        low, high = min(values), max(values)
        if low >= high:
            continue
        if spans_decades(values):
            pad = (high / low) ** 0.07
            panel.set(**{f"{axis}scale": "log", f"{axis}lim": (low / pad, high * pad)})
        else:
            pad = 0.07 * (high - low)
            panel.set(**{f"{axis}lim": (low - pad, high + pad)})


def _style(panel: Axes, x: Metric, y: Metric, is_first: bool) -> None:
    from matplotlib.ticker import (
        EngFormatter,
        LogLocator,
        MaxNLocator,
        NullFormatter,
        ScalarFormatter,
    )

    for axis, metric in ((panel.xaxis, x), (panel.yaxis, y)):
        if axis.get_scale() == "log":
            axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
            axis.set_major_formatter(ScalarFormatter())
            axis.set_minor_formatter(NullFormatter())
        else:
            axis.set_major_locator(MaxNLocator(6))
        if metric.has_prefix:
            axis.set_major_formatter(EngFormatter(unit="B" if metric.unit == "bytes" else ""))
    panel.set_xlabel(_axis_text(x, panel.get_xscale()), family=FONT, size=9, color=INK)
    if is_first:
        panel.set_ylabel(_axis_text(y, panel.get_yscale()), family=FONT, size=9, color=INK)
    quiet_axes(panel, 8)


def _axis_text(metric: Metric, scale: str) -> str:
    return metric.axis + (" (log)" if scale == "log" else "")
