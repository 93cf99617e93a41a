"""Convergence: hypervolume after each evaluation, over seeds, as a mean with its interval or a median with its quartiles.

s seeds (runs), b evaluations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from nas.plot_style import FONT, INK, MUTED, quiet_axes, quiet_matplotlib
from surrogates.base import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Spread = Literal["mean", "median"]
# Okabe & Ito's colors, told apart by people who are color blind, darkest contrasts first; yellow is left out, as it is lost on white.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#17202b", "#56b4e9", "#e69f00")
_DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
_WORDS = {
    "mean": "mean and 95 % interval of the mean (Student's t)",
    "median": "median and quartiles",
}


@dataclass(frozen=True, eq=False)
class Convergence:
    """Middle and spread of traces after each evaluation.

    Args:
        middle_b: mean or median over the runs.
        low_b: lower end of the 95 % interval of the mean, or lower quartile.
        high_b: upper end.
        num_runs: s.
        spread: ``mean`` or ``median``.
    """

    middle_b: FloatArray
    low_b: FloatArray
    high_b: FloatArray
    num_runs: int
    spread: Spread


def convergence(trace_sb: npt.ArrayLike, spread: Spread = "mean") -> Convergence:
    """Summarize the traces of one method.

    Args:
        trace_sb: hypervolume (or any indicator) after each evaluation, one row per seed.
        spread: ``mean``: the mean, and its 95 % interval by Student's t over the seeds; ``median``: the median, and the
            quartiles of the seeds. A single run has no spread.

    Raises:
        ValueError: if there is no run or no evaluation, a value is not finite, or the spread is unknown.
    """
    trace = np.asarray(trace_sb, dtype=np.float64)
    if trace.ndim == 1:
        trace = trace[None]
    if trace.ndim != 2 or not trace.size or not np.all(np.isfinite(trace)):
        raise ValueError(
            f"expected finite traces of shape (seeds, evaluations), got shape {trace.shape}"
        )
    if spread not in _WORDS:
        raise ValueError(f"expected spread 'mean' or 'median', got {spread!r}")
    runs = len(trace)
    if spread == "median":
        low, middle, high = np.quantile(trace, (0.25, 0.5, 0.75), axis=0)
        return Convergence(middle, low, high, runs, spread)
    middle, half = trace.mean(axis=0), np.zeros(trace.shape[1])
    if runs > 1:
        from scipy.stats import t

        half = t.ppf(0.975, runs - 1) * trace.std(axis=0, ddof=1) / np.sqrt(runs)
    return Convergence(middle, middle - half, middle + half, runs, spread)


def convergence_figure(
    traces: Mapping[str, npt.ArrayLike],
    *,
    title: str = "",
    spread: Spread = "mean",
    ylabel: str = "Hypervolume, share of the best known",
    goal: float | None = None,
    ylim: tuple[float, float] | None = None,
) -> Figure:
    """Draw hypervolume against evaluations, one line per method with its spread; save it by ``figure.savefig(path)``.

    A method is told by color, by dashes and by its name at the end of its line, so that nobody has to see colors. The first
    method is drawn on top, with the boldest line: put your own first.

    Args:
        traces: method to its traces, shape (s, b), one row per seed; methods may have different numbers of seeds and evaluations.
            ``Simulation.hypervolume_sb`` is one.
        title: above the plot.
        spread: as for :func:`convergence`; the figure says which, and over how many seeds.
        ylabel: of the vertical axis.
        goal: a level to mark, 0.985 for example.
        ylim: of the vertical axis; by default from what most methods had reached after a tenth of their evaluations, so that the
            end, where methods differ, is legible.

    Returns:
        A figure of its own, no part of pyplot's state, 1600 x 960 pixels when saved.

    Raises:
        ValueError: if there is no method, or a trace is wrong.
    """
    if not traces:
        raise ValueError("expected the traces of one method or more, got none")
    found = {name: convergence(trace, spread) for name, trace in traces.items()}
    with quiet_matplotlib():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 6), dpi=160, facecolor="white")
        FigureCanvasAgg(figure)  # attaches itself: no global pyplot figure
        axes = figure.subplots()
        figure.subplots_adjust(left=0.085, right=0.80, top=0.88, bottom=0.12)
        _draw(axes, found)
        axes.set_ylim(*(ylim or _limits(found)))
        _name_lines(axes, found)
        if goal is not None:
            axes.axhline(goal, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        _style(axes, ylabel, goal)
        figure.text(0.085, 0.945, title, family=FONT, size=12, color=INK, weight="bold")
        seeds = sorted({c.num_runs for c in found.values()})
        number = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        note = f"{_WORDS[spread]} over {number} seed{'s' if seeds[-1] > 1 else ''}"
        figure.text(0.085, 0.905, note, family=FONT, size=9, color=MUTED)
    return figure


def _looks(index: int) -> tuple[str, object]:
    """Color and dashes: each color once with every kind of dash."""
    return _COLORS[index % len(_COLORS)], _DASHES[index % len(_DASHES)]


def _draw(axes: Axes, found: Mapping[str, Convergence]) -> None:
    for index, (name, trace) in enumerate(found.items()):
        color, dashes = _looks(index)
        top = 10 + len(found) - index
        at = np.arange(1, len(trace.middle_b) + 1)
        axes.plot(
            at,
            trace.middle_b,
            color=color,
            linestyle=dashes,
            linewidth=2.4 if index == 0 else 1.6,
            label=name,
            zorder=top,
        )
        if trace.num_runs > 1:
            axes.fill_between(
                at, trace.low_b, trace.high_b, color=color, alpha=0.16, linewidth=0, zorder=2
            )
    longest = max(len(c.middle_b) for c in found.values())
    axes.set_xlim(0, longest)


def _limits(found: Mapping[str, Convergence]) -> tuple[float, float]:
    starts = [c.middle_b[max(len(c.middle_b) // 10 - 1, 0)] for c in found.values()]
    low = float(np.quantile(starts, 0.25))
    high = float(max(c.high_b.max() for c in found.values()))
    low = min(low, float(min(c.middle_b[-1] for c in found.values())))
    pad = 0.04 * (high - low) or 0.01
    return low - pad, high + pad


def _name_lines(axes: Axes, found: Mapping[str, Convergence]) -> None:
    """Each method's name at the right end of its line, moved apart where lines end together."""
    low, high = axes.get_ylim()
    gap = 0.038 * (high - low)
    ends = sorted((float(c.middle_b[-1]), i, name) for i, (name, c) in enumerate(found.items()))
    places: list[float] = []
    for end, _, _ in ends:
        places.append(max(end, places[-1] + gap) if places else max(end, low + gap / 2))
    over = places[-1] - (high - gap / 2)
    if over > 0:  # push down from the top
        places[-1] -= over
        for i in range(len(places) - 2, -1, -1):
            places[i] = min(places[i], places[i + 1] - gap)
    longest = max(len(c.middle_b) for c in found.values())
    differ = len({c.num_runs for c in found.values()}) > 1
    for place, (end, index, name) in zip(places, ends, strict=True):
        color, _ = _looks(index)
        axes.annotate(
            f"{name}  {end:.3f}" + (f", n={found[name].num_runs}" if differ else ""),
            xy=(len(found[name].middle_b), end),
            xytext=(1.025 * longest, place),
            annotation_clip=False,
            va="center",
            family=FONT,
            size=9,
            weight="bold" if index == 0 else "normal",
            color=INK,
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 1.1,
                "relpos": (0, 0.5),
                "shrinkA": 2,
                "shrinkB": 0,
            },
        )


def _style(axes: Axes, ylabel: str, goal: float | None) -> None:
    axes.set_xlabel("Evaluations", family=FONT, size=10, color=INK)
    axes.set_ylabel(ylabel, family=FONT, size=10, color=INK)
    quiet_axes(axes, 9)
    if goal is not None:
        low, high = axes.get_ylim()
        if low < goal < high:
            axes.annotate(
                f"{goal:g}", xy=(0, goal), xytext=(3, 2), textcoords="offset points",
                family=FONT, size=8, color=MUTED,
            )  # fmt: skip
