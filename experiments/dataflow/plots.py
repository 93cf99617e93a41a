"""Figures of a sweep: speed-up against sparsity, one panel per device, one line per mode and pattern."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from nas.files import write_bytes_atomic
from surrogates.dataflow import MODES

COLORS = dict(zip(MODES, ("C3", "C0", "C2"), strict=True))
STYLES = ("-", "--", ":", "-.")


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the rows of one workload.

    Args:
        rows: of :func:`experiments.dataflow.sweep.sweep`.
        path: PNG to write.
    """
    devices = list(dict.fromkeys(row["device"] for row in rows))
    patterns = list(dict.fromkeys(row["pattern"] for row in rows))
    columns = min(4, len(devices))
    height = -(-len(devices) // columns)
    figure = Figure(figsize=(3.1 * columns + 1.9, 2.7 * height + 0.8), layout="constrained")
    panels = figure.subplots(height, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, name in zip(panels, devices, strict=False):
        for mode in MODES:
            for index, pattern in enumerate(patterns):
                curve = sorted(
                    (r["level"], r["speedup"])
                    for r in rows
                    if (r["device"], r["mode"], r["pattern"]) == (name, mode, pattern)
                )
                levels, speedups = zip(*curve, strict=True)
                axes.plot(
                    [1.0 / (1.0 - level) for level in levels],
                    speedups,
                    color=COLORS[mode],
                    linestyle=STYLES[index % len(STYLES)],
                    marker=".",
                    label=f"{mode}, {pattern}",
                )
        axes.axhline(1.0, color="gray", linewidth=0.8)
        axes.set_title(name, fontsize=10)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        ticks = sorted({round(1.0 / (1.0 - r["level"]), 3) for r in rows})
        shown = [t for t in ticks if t in (1.0, 2.0, 4.0, 8.0, 20.0)] or ticks
        axes.set_xticks(shown, [f"{100 * (1 - 1 / t):g} %" for t in shown])
        axes.yaxis.set_major_formatter("{x:g}")
    for axes in panels[len(devices) :]:
        axes.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    figure.supxlabel("fraction of zeros", fontsize=9)
    figure.supylabel("speed-up over the fastest dense execution", fontsize=9)
    figure.suptitle(f"{rows[0]['workload']}: predicted by a model, not measured", fontsize=10)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    write_bytes_atomic(path, image.getvalue())
