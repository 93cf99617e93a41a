"""``python -m experiments.kernels``: check every format against float64, then time it and every dense path in turns."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from experiments.kernels import checks
from experiments.kernels.cases import Bench, Case, select_cases
from experiments.kernels.measure import Outcome, measure, setting_of
from experiments.kernels.plots import draw
from experiments.kernels.tables import COLUMNS, path_rows, summarize
from experiments.results import (
    command_line,
    device_slug,
    digest,
    result_folder,
    run,
    write_csv,
    write_result,
)
from nas.deploy.runtime import Runtime, check_device, device_name
from nas.files import sha256_file

SMALL = "small CPU version: small shapes; says nothing of a GPU"


def main(bench: Bench) -> None:
    """Check, measure, and write the table, the figures and the result."""
    deadline = None if bench.minutes is None else time.monotonic() + 60.0 * bench.minutes
    check_device(bench.device)
    console = Console()
    cases = select_cases(bench)
    if bench.device == "cpu":
        console.print(f"[bold]{SMALL}[/bold]")
    console.print(f"Checking in {', '.join(bench.checked_dtypes)}, then {len(cases)} cases")
    kinds = list(dict.fromkeys(case.kind for case in cases))
    folder = bench.out / device_slug(bench.device)
    log, setting = folder / "cases.jsonl", setting_of(bench)
    checked, missing = checks.check_kinds(
        kinds,
        bench.checked_dtypes,
        bench.device,
        thorough=not bench.quick,
        seed=bench.seed,
        log=folder / "checks.jsonl",
        setting=digest({**setting, "checks": sha256_file(checks.__file__)}),
    )
    outcome = measure(bench, cases, log, digest(setting), deadline)
    outcome.missing = missing | outcome.missing
    for pattern, reason in outcome.missing.items():
        console.print(f"{pattern} left out: {reason}")
    if not outcome.records:
        console.print("Nothing was measured, nothing is written")
        return
    results = _write(bench, cases, outcome, checked, setting)
    _print(console, outcome, bench)
    console.print(f"Log in {log}; results in {results}")


def _write(
    bench: Bench,
    cases: Sequence[Case],
    outcome: Outcome,
    checked: list[dict[str, Any]],
    setting: Mapping[str, Any],
) -> Path:
    folder = result_folder("kernels", bench.device, bench.results)
    rows = [row for record in outcome.records for row in path_rows(record)]
    write_csv(folder / "kernels.csv", rows, COLUMNS)
    draw(folder / "kernels.csv", device_name(bench.device))
    runtime: dict[str, Any] = {"device": bench.device, "dtype": bench.chosen_dtypes[0]}
    absent: dict[str, str] = {}
    for record in outcome.records:
        absent |= {f"{record['sparsity']} {n}": why for n, why in record["unavailable"].items()}
    values = {
        "version": SMALL if bench.device == "cpu" else "full",
        "cases": len(outcome.records),
        "of_cases": len(cases),
        "left_out": outcome.left_out,
        "missing_formats": outcome.missing,
        "unavailable_paths": absent,
        "copy_gbps": outcome.records[-1]["copy_gbps"],
        "setting": dict(setting),
        "checked": checked,
        "speedups": summarize(rows),
    }
    write_result(
        folder,
        command=command_line("experiments.kernels", bench),
        seeds=[bench.seed],
        values=values,
        runtime=Runtime(threads=torch.get_num_threads(), **runtime),
    )
    return folder


def _print(console: Console, outcome: Outcome, bench: Bench) -> None:
    summary = summarize(row for record in outcome.records for row in path_rows(record))
    table = Table(
        title=f"Speed-up over the fastest dense path on {device_name(bench.device)}, geometric mean over shapes",
        title_justify="left",
    )
    numbers = sorted({s["rows"] for s in summary})
    for column in ("dtype", "sparsity", *(f"N={n}" for n in numbers), "byte bound"):
        table.add_column(column, justify="left" if column in ("dtype", "sparsity") else "right")
    for dtype, sparsity in dict.fromkeys((s["dtype"], s["sparsity"]) for s in summary):
        own = {s["rows"]: s for s in summary if (s["dtype"], s["sparsity"]) == (dtype, sparsity)}
        cells = [f"{own[n]['speedup']:.2f}" if n in own else "-" for n in numbers]
        bound = next(iter(own.values()))["byte_bound"]
        table.add_row(dtype, sparsity, *cells, f"{bound:.2f}")
    console.print(table)
    unavailable = {(n, why) for r in outcome.records for n, why in r["unavailable"].items()}
    for name, why in sorted(unavailable):
        console.print(f"{name} not available: {why}", markup=False)
    if outcome.left_out:
        console.print(
            f"{len(outcome.left_out)} cases left out after {bench.minutes:g} minutes, the first "
            f"{outcome.left_out[0]!r}; the same command goes on from the log"
        )


if __name__ == "__main__":
    run(main, Bench, __doc__)
