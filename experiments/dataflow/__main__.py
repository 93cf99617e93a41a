"""``python -m experiments.dataflow``: sparsity x fusion x device, predicted by the dataflow model; its tables and its figures."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.dataflow.plots import draw
from experiments.dataflow.sweep import (
    COLUMNS,
    DENSE_FRACTIONS,
    GAIN,
    HALVING,
    s2d_rows,
    summarize,
    sweep,
)
from experiments.results import ROOT, command_line, run, write_csv, write_result
from search_spaces import Workload
from surrogates import MODES, Efficiency, device

REFERENCE = "a100"


@dataclass(frozen=True)
class Recipe:
    """What is predicted.

    Args:
        devices: by name; a100 among them, whose dense training is the baseline of sparse-to-dense training.
        patterns: of sparsity, without the level.
        levels: fractions of zeros.
        embed_dim: width; GPT 13B's by default (2005.14165), as in 2304.05511.
        depth: layers.
        batch: sequences of training and prefill.
        decode_batch: sequences of decode.
        context: tokens of a sequence.
        results: where tables and figures go.
    """

    devices: tuple[str, ...] = ("a100", "a100-80", "h100", "h200", "b200", "rtx4090", "sn40l")
    patterns: tuple[str, ...] = ("unstructured", "vector64")
    levels: tuple[float, ...] = (0.5, 0.6, 0.7, 0.75, 0.8, 0.875, 0.9, 0.95)
    embed_dim: int = 5120
    depth: int = 40
    batch: int = 8
    decode_batch: int = 8
    context: int = 2048
    results: Path = ROOT

    def __post_init__(self) -> None:
        for name in self.devices:
            device(name).peak("bfloat16")
        for name in ("devices", "patterns", "levels"):
            if not getattr(self, name):
                raise ValueError(f"expected one of {name} or more, got none")
        if REFERENCE not in self.devices:
            raise ValueError(
                f"expected {REFERENCE} among the devices (the baseline), got {self.devices}"
            )
        if any(not 0.0 < level < 1.0 for level in self.levels):
            raise ValueError(f"expected levels between 0 and 1, got {self.levels}")


def main(recipe: Recipe) -> None:
    """Predict, print and write."""
    began = time.perf_counter()
    console = Console(width=max(110, Console().width))  # five columns, also into a file
    efficiency = Efficiency()
    folder = recipe.results / "predicted" / "dataflow"
    workloads = (
        Workload("training", recipe.batch, recipe.context),
        Workload("prefill", recipe.batch, recipe.context),
        Workload("decode", recipe.decode_batch, recipe.context),
    )
    rows: list[dict[str, Any]] = []
    figures = []
    for workload in workloads:
        shape = (recipe.embed_dim, recipe.depth)
        found = sweep(
            shape, workload, recipe.devices, recipe.patterns, sorted(recipe.levels), efficiency
        )
        figures.append(f"{workload.phase}.png")
        folder.mkdir(parents=True, exist_ok=True)
        draw(found, folder / figures[-1])
        rows += found
    summary = summarize(rows)
    of_training = [row for row in rows if row["workload"] == str(workloads[0])]
    write_csv(
        folder / "dataflow.csv",
        [{k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in rows],
        COLUMNS,
    )
    write_result(
        folder,
        command=command_line("experiments.dataflow", recipe),
        seeds=[],
        values={
            "kind": "predictions of an analytic model, not measurements",
            "devices": {name: device(name).to_json() for name in recipe.devices},
            "efficiency": vars(efficiency),
            "pays_from_rule": f"least level with {GAIN} or more over the fastest dense execution",
            "pays_until_rule": f"highest level that gains {HALVING} or more per halving of the kept weights over the level before",
            "summary": summary,
            "s2d": s2d_rows(of_training, REFERENCE),
        },
    )
    _print(console, summary, str(workloads[0]))
    console.print(
        f"{len(rows)} predictions in {time.perf_counter() - began:.0f} s. Results in {folder}: dataflow.csv, result.json, "
        f"{', '.join(figures)}",
        soft_wrap=True,
    )
    console.print(
        "Next: look at training.png; result.json has the sparse-to-dense speed-ups at dense fractions of "
        f"{', '.join(map(str, DENSE_FRACTIONS))} ('s2d'). Measured speed-ups: python -m experiments.kernels --device cuda",
        soft_wrap=True,
    )


def _print(console: Console, summary: list[dict[str, Any]], workload: str) -> None:
    table = Table(
        title=f"{workload}: best speed-up over the fastest dense execution (zeros that pay: from, to)",
        caption="a model's predictions, not measurements",
        title_justify="left",
    )
    for column in ("device", "pattern", *MODES):
        table.add_column(column, no_wrap=True)
    rows = [row for row in summary if row["workload"] == workload]
    for name, pattern in dict.fromkeys((row["device"], row["pattern"]) for row in rows):
        own = {r["mode"]: r for r in rows if (r["device"], r["pattern"]) == (name, pattern)}
        cells = []
        for row in (own[mode] for mode in MODES):
            span = "never pays"
            if row["pays_from"] is not None:
                last = "-" if row["pays_until"] is None else f"{row['pays_until']:g}"
                span = f"{row['pays_from']:g} to {last}"
            cells.append(f"{row['best_speedup']:.2f}x ({span})")
        table.add_row(name, pattern, *cells)
    console.print(table)


if __name__ == "__main__":
    run(main, Recipe, __doc__)
