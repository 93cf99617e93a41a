"""Figures of a table of paths: speed-up against sparsity, one panel per number of rows, and a map of wins and losses."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from experiments.kernels.tables import read_csv, summarize
from nas.files import write_bytes_atomic

#: Mean speed-up over cuBLAS of Flash-LLM (2309.10285) on an A100, 12 OPT shapes, random sparsity: N to level to factor. Read off the
#: figure of its repository's README, so each is good to about 3 %.
PUBLISHED: Mapping[int, Mapping[float, float]] = {
    8: {0.7: 1.47, 0.8: 1.79, 0.9: 2.23},
    16: {0.7: 1.46, 0.8: 1.76, 0.9: 2.20},
    32: {0.7: 1.40, 0.8: 1.63, 0.9: 1.93},
}
PUBLISHED_LABEL = "Flash-LLM: published, A100 (2309.10285)"

COLORS = (*(f"C{number}" for number in range(10)), "black", "gold")


def draw(table: Path, title: str) -> list[Path]:
    """Draw both figures beside a table, one pair per dtype.

    Args:
        table: CSV of :mod:`experiments.kernels.tables`.
        title: what was measured, and where.

    Returns:
        The files.
    """
    summary = summarize(read_csv(table))
    files = []
    dtypes = sorted({s["dtype"] for s in summary})
    for dtype in dtypes:
        suffix = f"-{dtype}" if len(dtypes) > 1 else ""
        own = [s for s in summary if s["dtype"] == dtype]
        for name, figure in (
            (f"speedup{suffix}.png", _curves(own, f"{title}, {dtype}")),
            (f"wins{suffix}.png", _heat(own, f"{title}, {dtype}")),
        ):
            image = io.BytesIO()
            figure.savefig(image, format="png", dpi=130)
            write_bytes_atomic(table.with_name(name), image.getvalue())
            files.append(table.with_name(name))
    return files


def _curves(summary: Sequence[Mapping[str, Any]], title: str) -> Figure:
    numbers = sorted({s["rows"] for s in summary})
    patterns = list(dict.fromkeys(s["pattern"] for s in summary))
    figure = Figure(figsize=(4.2 * len(numbers) + 2.2, 4.4), layout="constrained")
    panels = figure.subplots(1, len(numbers), sharey=True, squeeze=False)[0]
    for axes, number in zip(panels, numbers, strict=True):
        for index, pattern in enumerate(patterns):
            points = [s for s in summary if s["rows"] == number and s["pattern"] == pattern]
            if not points:
                continue
            color, marker = COLORS[index % len(COLORS)], "os^Dv<>P*Xdh"[index % 12]
            levels = [s["level"] for s in points]
            axes.plot(
                levels, [s["speedup"] for s in points], color=color, marker=marker, label=pattern
            )
            bounds = [s["byte_bound"] for s in points]
            if len(points) > 1:
                axes.plot(levels, bounds, "--", color=color, linewidth=0.9, alpha=0.7)
            else:  # N:M has one level: a dash at its bound
                axes.plot(levels, bounds, "_", color=color, markersize=14, alpha=0.7)
        if number in PUBLISHED:
            curve = PUBLISHED[number]
            axes.plot(list(curve), list(curve.values()), "k:x", label=PUBLISHED_LABEL)
        axes.axhline(1.0, color="gray", linewidth=0.8)
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_title(f"N = {number}")
        axes.set_xlabel("fraction of zeros")
    panels[0].set_ylabel("speed-up over the fastest dense path")
    handles: dict[str, Any] = {}
    for axes in panels:
        lines, labels = axes.get_legend_handles_labels()
        handles.update(zip(labels, lines, strict=True))
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside right upper",
        title="dashed: byte bound",
        fontsize=8,
    )
    figure.suptitle(f"{title} (geometric mean over shapes)", fontsize=10)
    return figure


def _heat(summary: Sequence[Mapping[str, Any]], title: str) -> Figure:
    labels = list(dict.fromkeys(s["sparsity"] for s in summary))
    numbers = sorted({s["rows"] for s in summary})
    grid = np.full((len(labels), len(numbers)), np.nan)
    for s in summary:
        grid[labels.index(s["sparsity"]), numbers.index(s["rows"])] = s["speedup"]
    figure = Figure(
        figsize=(2.4 + 0.9 * len(numbers), 1.6 + 0.27 * len(labels)), layout="constrained"
    )
    axes = figure.subplots()
    # a factor and its inverse are equally far from white
    shades = np.log2(grid)
    reach = max(1.0, float(np.nanmax(np.abs(shades))))
    axes.imshow(shades, cmap="RdBu", norm=TwoSlopeNorm(0.0, -reach, reach), aspect="auto")
    for (row, column), value in np.ndenumerate(grid):
        if not np.isnan(value):
            shade = "white" if abs(shades[row, column]) > 0.6 * reach else "black"
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=shade
            )
    axes.set_xticks(range(len(numbers)), [f"N={n}" for n in numbers])
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.set_title(f"{title}\nspeed-up; blue wins, red loses", fontsize=8)
    return figure
