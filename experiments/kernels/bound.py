"""``python -m experiments.kernels.bound``: predicted speed-up of every kernel on every card, from its instructions and its bytes.

The instructions are those of ``static_table.json``. What comes out is a prediction, never a measurement; where a card was measured, the
measurement stands beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.kernels.cards import CARDS
from experiments.kernels.prediction import kind_of, predict
from experiments.kernels.tables import read_csv, summarize
from experiments.results import ROOT, command_line, run, write_csv, write_result

STATIC_TABLE = Path(__file__).with_name("static_table.json")
# Counts of a card whose own architecture was not compiled for: the nearest older instruction set.
NEAREST = {"sm_89": "sm_80", "sm_100": "sm_90"}
COLUMNS = (
    *("card", "kernel", "sparsity", "arch", "instructions_per_weight", "slots", "byte_ratio"),
    *("issue_cap", "shared_cap", "popc_cap", "predicted", "limit", "measured", "measured_dtype"),
)


@dataclass(frozen=True)
class Bound:
    """What is predicted.

    Args:
        table: JSON of the counted kernels.
        rows: N of the measurements that stand beside the predictions.
        results: where measurements are looked for and predictions go.
    """

    table: Path = STATIC_TABLE
    rows: int = 16
    results: Path = ROOT


def read_static_table(path: Path) -> list[dict[str, Any]]:
    """The counted kernels.

    Raises:
        ValueError: if the table is missing or is none.
    """
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
        for row in rows:
            float(row["instructions_per_weight"])
            kind_of(row)
    except FileNotFoundError:
        raise ValueError(
            f"expected the counted kernels in {path}, found no file; write it with: python -m experiments.kernels.static"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"expected rows of kernel, sparsity, arch and instructions_per_weight in {path}, got: {error!r}; "
            "write it again with: python -m experiments.kernels.static"
        ) from error
    return rows


def predictions(
    rows: Sequence[Mapping[str, Any]], measured: Mapping[tuple[str, str], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One row per card and kernel that was counted for it.

    Args:
        rows: of the static table.
        measured: by slug of the card and label of the sparsity, a summary of its measured table.
    """
    found = []
    for card in CARDS:
        compiled = {str(row["arch"]) for row in rows}
        arch = card.arch if card.arch in compiled else NEAREST.get(card.arch, card.arch)
        for row in rows:
            if row["arch"] != arch:
                continue
            prediction = predict(card, row)
            label = kind_of(row).label
            beside = measured.get((card.slug, label), {})
            found.append(
                {
                    "card": card.label,
                    "kernel": row["kernel"],
                    "sparsity": label,
                    "arch": arch if arch == card.arch else f"{arch} for {card.arch}",
                    "instructions_per_weight": row["instructions_per_weight"],
                    "slots": round(card.slots, 1),
                    "byte_ratio": round(prediction.byte_ratio, 2),
                    "issue_cap": round(prediction.issue_cap, 2),
                    "shared_cap": _finite(prediction.shared_cap),
                    "popc_cap": _finite(prediction.popc_cap),
                    "predicted": round(prediction.speedup, 2),
                    "limit": prediction.limit,
                    "measured": beside.get("speedup"),
                    "measured_dtype": beside.get("dtype"),
                }
            )
    return found


def measured_speedups(root: Path, rows: int) -> dict[tuple[str, str], dict[str, Any]]:
    """Mean speed-ups at N rows from the tables of the cards, by slug of the card and label of the sparsity."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for card in CARDS:
        for path in sorted(root.glob(f"{card.slug}*/kernels/kernels.csv")):
            for summary in summarize(read_csv(path)):
                if summary["rows"] == rows:
                    found[card.slug, summary["sparsity"]] = summary
    return found


def _finite(value: float) -> float | None:
    return None if value == float("inf") else round(value, 2)


def main(bound: Bound) -> None:
    """Predict, print and write."""
    rows = predictions(read_static_table(bound.table), measured_speedups(bound.results, bound.rows))
    folder = bound.results / "predicted" / "kernels"
    write_csv(folder / "bound.csv", rows, COLUMNS)
    write_result(
        folder,
        command=command_line("experiments.kernels.bound", bound),
        seeds=[],
        values={
            "kind": "predictions of a static model, not measurements",
            "cards": [{"name": card.label, "source": card.source} for card in CARDS],
            "rows": rows,
        },
    )
    table = Table(
        title=f"Predicted speed-up over a dense 16-bit product (no measurement); measured at N={bound.rows} where a card was",
        title_justify="left",
    )
    for column in ("card", "kernel", "sparsity", "instr.", "predicted", "limit", "measured"):
        table.add_column(column)
    for row in rows:
        beside = (
            "-" if row["measured"] is None else f"{row['measured']:.2f} ({row['measured_dtype']})"
        )
        cells = (f"{row['instructions_per_weight']:.2f}", f"{row['predicted']:.2f}", row["limit"])
        table.add_row(row["card"], row["kernel"], row["sparsity"], *cells, beside)
    console = Console()
    console.print(table)
    for card in CARDS:
        console.print(f"{card.label}: {card.slots:.1f} slots; {card.source}", markup=False)
    console.print(f"Results in {folder}/bound.csv")


if __name__ == "__main__":
    run(main, Bound, __doc__)
