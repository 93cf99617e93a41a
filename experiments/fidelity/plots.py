"""Hypervolume against tokens, of both ways to search."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments.fidelity.savings import Curve
from nas.files import write_bytes_atomic

_COLORS = ("#0072b2", "#d55e00")  # Okabe & Ito: told apart by everybody


def plot(curves: Mapping[str, Sequence[Curve]], unit: int, path: Path) -> None:
    """Mean over seeds and the range from worst to best.

    Args:
        curves: of each way to search, one a seed.
        unit: tokens of a full evaluation.
        path: of the PNG.
    """
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for (name, found), color in zip(curves.items(), _COLORS, strict=False):
        end = min(c.tokens[-1] for c in found)  # beyond it a mean would be of fewer seeds
        tokens = np.linspace(0, end, 800)
        volumes = np.array([c.at(tokens) for c in found])
        axes.plot(tokens / unit, volumes.mean(axis=0), color=color, label=name)
        axes.fill_between(
            tokens / unit, volumes.min(axis=0), volumes.max(axis=0), color=color, alpha=0.15
        )
    full = next(iter(curves.values()))
    target = float(np.mean([c.hypervolume[-1] for c in full]))
    axes.axhline(target, color="0.5", linewidth=0.8, linestyle="--")
    axes.axvline(0.4 * full[0].tokens[-1] / unit, color="0.5", linewidth=0.8, linestyle=":")
    axes.annotate(
        "40 % of the tokens",
        (0.4 * full[0].tokens[-1] / unit, 0.0),
        xytext=(3, 3),
        textcoords="offset points",
        fontsize=8,
        color="0.35",
    )
    axes.set_xlabel(f"tokens paid, in full evaluations ({unit:,} tokens each)")
    axes.set_ylabel("normalized hypervolume of full evaluations")
    axes.set_ylim(bottom=0.0)
    axes.set_xlim(left=0.0)
    axes.legend(loc="lower right")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=130)
    write_bytes_atomic(path, image.getvalue())
