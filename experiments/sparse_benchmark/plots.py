"""Predicted against measured, out of fold."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from experiments.sparse_benchmark.quality import OutOfFold
from nas.files import write_bytes_atomic
from surrogates.tables import Key


def plot_predictions(found: Mapping[Key, OutOfFold], path: Path) -> None:
    """A panel for each column: measured values against predictions with their 90 % intervals, on logarithmic axes."""
    figure = Figure(figsize=(5.2 * len(found), 4.6))
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for panel, ((metric, device), guess) in zip(panels, found.items(), strict=True):
        scores = guess.scores()
        panel.errorbar(
            guess.measured_n,
            guess.mean_n,
            yerr=[guess.mean_n - guess.low_n, guess.high_n - guess.mean_n],
            fmt="o",
            markersize=2.5,
            linewidth=0.5,
            alpha=0.5,
        )
        ends = [guess.measured_n.min(), guess.measured_n.max()]
        panel.plot(ends, ends, color="0.4", linewidth=1)
        panel.set(
            xscale="log",
            yscale="log",
            xlabel=f"{metric}, measured",
            ylabel=f"{metric}, predicted without it",
            title=f"{device or 'supernet'}: tau {scores['kendall_tau']:.3f}, MAPE {scores['mape']:.1%}, "
            f"coverage {scores['coverage90']:.0%}",
        )
        panel.title.set_fontsize(9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
    write_bytes_atomic(path, buffer.getvalue())
