"""``python -m experiments.hw_gpt_bench.ship``: fit surrogates to all rows of a table and store them with the package."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from tqdm import tqdm

import surrogates
from experiments.hw_gpt_bench.data import find_table
from experiments.results import command_line, run
from surrogates.benchmark import Benchmark
from surrogates.tables import MeasurementTable

ASSETS = Path(surrogates.__file__).parent / "assets"


@dataclass(frozen=True)
class Recipe:
    """What is shipped.

    Args:
        table: measurements; by default HW-GPT-Bench's in a ``shared`` folder.
        rows: at most this many are fitted to.
        out: file; by default that of the package for the table's space.
    """

    table: Path | None = None
    rows: int = 6000
    out: Path | None = None


def main(recipe: Recipe) -> None:
    """Fit every column and write one file."""
    path = recipe.table or find_table()
    if path is None:
        raise ValueError(
            "expected --table FILE.npz, got none; see surrogates/tables.py for its layout"
        )
    table = MeasurementTable.load(path, bad="skip")
    bench = Benchmark(table.space.name, table, most_rows=recipe.rows)
    for metric, device in tqdm(bench.keys, "fitting", unit="column"):
        bench.surrogate(metric, device or None)
    out = recipe.out or ASSETS / f"{table.space.name}.npz"
    bench.save(
        out,
        {
            "command": command_line("experiments.hw_gpt_bench.ship", recipe),
            "date": datetime.date.today().isoformat(),
            "numpy": np.__version__,
            **dict(table.provenance),
        },
    )
    size = out.stat().st_size / 1e3
    Console().print(f"{out}: {len(bench.keys)} surrogates, {size:.0f} kB", markup=False)
    Console().print(f'next: surrogates.Benchmark("{table.space.name}")', markup=False)


if __name__ == "__main__":
    run(main, Recipe, __doc__)
