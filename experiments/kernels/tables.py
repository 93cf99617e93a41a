"""Tables of measured cases: one row per path of a case, and the mean speed-ups over shapes."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

COLUMNS = (
    *("dtype", "model", "layer", "out_features", "in_features", "pattern", "sparsity", "level", "rows"),
    *("path", "kind", "median_us", "p20_us", "p80_us", "captured", "dense_path", "dense_us"),
    *("speedup", "byte_bound", "gbps", "share_of_copy", "error", "is_best"),
)  # fmt: skip


def path_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of one case.

    ``dense_us`` is the fastest dense path of the case, ``byte_bound`` the dense weight's bytes over the stored ones (what a product
    that does nothing but read its weight would gain), ``gbps`` the bytes of weight, input and output over the time, and
    ``share_of_copy`` that over a large copy's rate. ``is_best`` marks the fastest of our paths that read the sparse weight; one that keeps
    a dense copy (kind ``dense copy``) is none.
    """
    paths = record["paths"]
    dense = min((p for p in paths if p["kind"] == "dense"), key=lambda p: float(p["median_us"]))
    ours = [p for p in paths if p["kind"] == "sparse"]
    best = min(ours, key=lambda p: float(p["median_us"]), default=None)
    rows = []
    for path in paths:
        moved = record["moved_bytes"] + record["stored_bytes"]
        if path["kind"].startswith(
            "dense"
        ):  # on the CPU a dense path may have another dtype than the case
            moved = record["moved_bytes"] + record["dense_bytes"]
            moved *= _value_bytes(path["path"], record["dtype"])
        gbps = moved / path["median_us"] / 1e3
        values = {
            **{name: record[name] for name in COLUMNS if name in record},
            **{name: path[name] for name in COLUMNS if name in path},
            "dense_path": dense["path"],
            "dense_us": dense["median_us"],
            "speedup": dense["median_us"] / path["median_us"],
            "byte_bound": record["dense_bytes"] / record["stored_bytes"],
            "gbps": gbps,
            "share_of_copy": gbps / record["copy_gbps"],
            "is_best": path is best,
        }
        rows.append({name: _short(values[name]) for name in COLUMNS})
    return rows


def _value_bytes(path: str, dtype: str) -> float:
    """Bytes of a value of a dense path over those of the case's dtype."""
    size = {"float32": 4, "float16": 2, "bfloat16": 2}
    return next((size[n] / size[dtype] for n in size if f" {n} " in f" {path} "), 1.0)


def _short(value: Any) -> Any:
    """Four digits: more are noise, and make a table that nobody reads."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def read_csv(path: Path) -> list[dict[str, Any]]:
    """The rows of a table of paths, numbers as numbers.

    Raises:
        ValueError: if a column is missing.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in rows:
        missing = [name for name in COLUMNS if row.get(name) is None]
        if missing:
            raise ValueError(
                f"expected the columns {COLUMNS} in {path}, got none of {missing}; measure again"
            )
        for name in ("level", "median_us", "dense_us", "speedup", "byte_bound", "share_of_copy"):
            row[name] = float(row[name])
        row["rows"] = int(row["rows"])
        row["is_best"] = row["is_best"] == "True"
    return rows


def summarize(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Geometric mean, least and largest speed-up over shapes of the fastest path, by dtype, sparsity and N."""
    groups: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["is_best"]:
            groups.setdefault((row["dtype"], row["sparsity"], row["rows"]), []).append(row)
    found = []
    for (dtype, sparsity, number), members in groups.items():
        speedups = [float(m["speedup"]) for m in members]
        found.append(
            {
                "dtype": dtype,
                "pattern": members[0]["pattern"],
                "sparsity": sparsity,
                "level": members[0]["level"],
                "rows": number,
                "shapes": len(members),
                "speedup": _short(geometric_mean(speedups)),
                "least": min(speedups),
                "largest": max(speedups),
                "byte_bound": _short(geometric_mean([float(m["byte_bound"]) for m in members])),
                "share_of_copy": _short(statistics.median(float(m["share_of_copy"]) for m in members)),
            }
        )  # fmt: skip
    return sorted(found, key=lambda s: (s["dtype"], s["pattern"], s["level"], s["rows"]))


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers: the mean that a ratio and its inverse agree on."""
    return math.exp(statistics.fmean(math.log(v) for v in values))
