"""Plots of the experiment; they read values only."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nas.files import write_bytes_atomic
from surrogates.base import FloatArray
from surrogates.simulate import Simulation


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
    write_bytes_atomic(path, buffer.getvalue())


def plot_quality(metrics: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """Coverage of the intervals, and MAPE against least squares, one point a column of the table."""
    figure = Figure(figsize=(11, 4.2))
    left, right = figure.subplots(1, 2)
    for metric, marker in (("latency", "o"), ("energy", "s"), ("memory", "^"), ("perplexity", "*")):
        found = [values[metric] for values in metrics.values() if metric in values]
        if not found:
            continue
        x = [100 * v["ols_mape"] for v in found]
        left.scatter(x, [100 * v["mape"] for v in found], marker=marker, label=metric, alpha=0.8)
        width = [100 * v["width90"] for v in found]
        right.scatter(width, [100 * v["coverage90"] for v in found], marker=marker, alpha=0.8)
    low, high = left.get_xlim()
    left.plot([low, high], [low, high], color="0.6", linewidth=1)
    left.set(xscale="log", yscale="log", xlabel="MAPE of least squares, %", ylabel="MAPE, %")
    left.legend()
    right.axhspan(88, 92, color="0.92")
    right.axhline(90, color="0.6", linewidth=1)
    right.set(xscale="log", xlabel="mean width of the 90 % interval, % of the value")
    right.set_ylabel("coverage, %")
    _save(figure, path)


def plot_learning(rows: list[dict[str, Any]], path: Path) -> None:
    """MAPE against the number of measurements, a panel for each metric, averaged over devices as ratios to 200 random rows."""
    figure = Figure(figsize=(10, 4))
    panels = figure.subplots(1, 2, sharey=True)
    for panel, metric in zip(panels, ("latency", "energy"), strict=True):
        for method in ("alone random", "alone active", "transfer random", "transfer active"):
            of_method = [r for r in rows if r["metric"] == metric and r["method"] == method]
            sizes = sorted({r["rows"] for r in of_method})
            ratio = [
                np.exp(np.mean([np.log(r["ratio"]) for r in of_method if r["rows"] == size]))
                for size in sizes
            ]
            if sizes:
                panel.plot(sizes, ratio, marker="o", label=method)
        panel.axhline(1.5, color="0.7", linestyle="--", linewidth=1)
        panel.set(xscale="log", xlabel="measurements on the new device", title=metric)
    panels[0].set(yscale="log", ylabel="MAPE / MAPE of 200 rows (geometric mean)")
    panels[0].legend()
    _save(figure, path)


def plot_searches(simulations: list[Simulation], title: str, path: Path) -> None:
    """Trajectories of the hypervolume, and median attainment surfaces with their quartiles."""
    figure = Figure(figsize=(11, 4.2))
    left, right = figure.subplots(1, 2)
    for simulation in simulations:
        volume_sb = simulation.hypervolume_sb
        at = np.arange(1, volume_sb.shape[1] + 1)
        (line,) = left.plot(at, volume_sb.mean(axis=0), label=simulation.sampler)
        low, high = np.quantile(volume_sb, [0.1, 0.9], axis=0)
        left.fill_between(at, low, high, color=line.get_color(), alpha=0.15)
        for share, style in ((0.25, ":"), (0.5, "-"), (0.75, ":")):
            surface = simulation.attainment(share)
            right.step(
                surface[:, 1],
                surface[:, 0],
                where="pre",
                linestyle=style,
                linewidth=1.2,
                color=line.get_color(),
            )
    best = simulations[0].problem.front[1]
    right.plot(best[:, 1], best[:, 0], color="black", linewidth=1, label="best known")
    left.set(xscale="log", xlabel="evaluations", ylabel="hypervolume / best known", title=title)
    quality, cost = simulations[0].problem.metrics
    right.set(xlabel=cost, ylabel=quality, title="attained by 25, 50, 75 % of runs")
    left.legend()
    right.legend()
    _save(figure, path)


def plot_correlation(names: list[str], matrix: FloatArray, path: Path) -> None:
    """Kendall tau between metrics and devices."""
    figure = Figure(figsize=(9, 8))
    axes = figure.subplots()
    image = axes.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    figure.colorbar(image, label="Kendall tau")
    _save(figure, path)
