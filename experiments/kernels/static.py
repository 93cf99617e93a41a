"""``python -m experiments.kernels.static``: compile every program that dispatch may launch, without a GPU, and count its instructions.

Writes ``static_table.json``: ``programs`` has every program, ``rows`` the best tiles of every kernel and sparsity, which
``experiments.kernels.bound`` turns into predictions. Counts are static: no stalls, no bank conflicts, no latency.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments.kernels import gates
from experiments.kernels.bound import STATIC_TABLE
from experiments.kernels.shapes import LEVELS
from experiments.results import command_line
from nas.deploy.runtime import versions
from nas.files import write_text_atomic
from nas.kernels.paths import has_triton, is_interpreted

if TYPE_CHECKING:
    from nas.kernels.triton.aot import Program


@dataclass(frozen=True)
class Static:
    """What is compiled.

    Args:
        arch: architectures.
        tokens: of one program: 16, 32, 64.
        edges: also the kernels of weights that the tiles do not divide.
        jobs: processes.
        out: the table.
    """

    arch: tuple[str, ...] = ("sm_80", "sm_90")
    tokens: tuple[int, ...] = (16, 32, 64)
    edges: bool = True
    jobs: int = 2
    out: Path = STATIC_TABLE


def compile_all(static: Static) -> list[dict[str, Any]]:
    """A row for every program.

    Raises:
        ValueError: if Triton is absent or interprets its kernels.
    """
    if not has_triton():
        raise ValueError("expected Triton, found none; install triton, no GPU is needed")
    if is_interpreted():
        raise ValueError(
            "expected kernels to be compiled, got TRITON_INTERPRET=1; run it with TRITON_INTERPRET=0"
        )
    from nas.kernels.triton.aot import programs

    wanted = programs(
        [int(a.removeprefix("sm_")) for a in static.arch], static.tokens, static.edges
    )
    # Triton 3.9 warns that 3.10 changes the default; what it is now is what runs
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(static.jobs, mp_context=context) as pool:
        done = pool.map(measure, wanted, chunksize=4)
        return list(track(done, "compiling", len(wanted), console=Console(stderr=True)))


def measure(program: Program) -> dict[str, Any]:
    """Compile one program; a failure is a row with its ``error``."""
    weight = program.weight
    row: dict[str, Any] = {
        "name": program.name,
        "kernel": f"{weight.stored} {weight.config.kernel}",
        "sparsity": str(weight.sparsity),
        "format": weight.stored,
        "arch": f"sm_{program.capability}",
        "tokens": program.tokens,
        "dtype": program.dtype,
        "config": weight.config.to_json(),
        "is_even": weight.is_even,
    }
    try:
        code = program.compile()
    except (
        Exception
    ) as error:  # whatever the compiler raises: the others are to be compiled all the same
        while error.__cause__ is not None and isinstance(error.__cause__, Exception):
            error = error.__cause__
        return row | {"error": f"{type(error).__name__}: {str(error)[:200]}"}
    row |= {
        "registers": code.registers,
        "spill_bytes": code.spill_bytes,
        "shared_bytes": code.shared_bytes,
    }
    if not program.weights:
        return row
    return row | {
        "instructions_per_weight": round(code.per_weight(program.weights), 4),
        "pop_c_per_weight": round(code.loop_popc * code.threads / program.weights, 4),
        "shared_bytes_per_weight": round(code.loop_shared_bytes / program.weights, 4),
        "products_per_weight": round(code.loop_products / program.weights, 4),
        "per": program.per,
    }


def best_rows(programs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The fewest instructions per weight of every kernel and sparsity at N = 16, as ``experiments.kernels.bound`` reads them.

    All but CSL need the same instructions at every level, which is then each of the levels that are measured.
    """
    best: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in programs:
        is_typical = row["tokens"] == gates.TOKENS and row["dtype"] == "fp16" and row["is_even"]
        if (
            not is_typical
            or "instructions_per_weight" not in row
            or row["name"].startswith("csl any")
        ):
            continue
        pattern = row["sparsity"].partition(":")[0]
        has_levels = not pattern.isdigit() and row["format"] != "csl"
        for label in [f"{pattern}:{x:.2f}" for x in LEVELS] if has_levels else [row["sparsity"]]:
            key = (row["format"], label, row["arch"])
            if (
                key not in best
                or row["instructions_per_weight"] < best[key]["instructions_per_weight"]
            ):
                best[key] = row | {"sparsity": label}
    return list(best.values())


def write_table(path: Path, static: Static, programs: Sequence[dict[str, Any]]) -> None:
    """The table as JSON, one row a line, so that a change of one kernel is a change of a few lines."""
    import datetime

    head = {
        "command": command_line("experiments.kernels.static", static),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions() | {"triton": triton_version()},
        "targets": gates.TARGETS,
    }
    parts = [f'"{name}": {json.dumps(value)}' for name, value in head.items()]
    for name, rows in (("rows", best_rows(programs)), ("programs", programs)):
        lines = ",\n".join(json.dumps(row, allow_nan=False) for row in rows)
        parts.append(f'"{name}": [\n{lines}\n]')
    write_text_atomic(path, "{\n" + ",\n".join(parts) + "\n}\n")


def triton_version() -> str:
    """Of the installed Triton."""
    from importlib.metadata import version

    return version("triton")


def main(static: Static) -> None:
    """Compile, write, print; exit with 1 where a hard gate is broken or a target missed."""
    programs = compile_all(static)
    write_table(static.out, static, programs)
    rows = best_rows(programs)
    table = Table(
        title=f"Thread-instructions per weight at N={gates.TOKENS}, fp16, the best tiles of each kernel (static counts)",
        title_justify="left",
    )
    for column in (
        "kernel",
        "sparsity",
        "card",
        "tiles",
        "instr.",
        "per",
        "POPC",
        "regs",
        "spills",
        "KiB",
        "gate",
    ):
        table.add_column(column)
    for row in rows:
        target = gates.target_of(row)
        verdict = "-"
        if target is not None:
            word = "beaten" if row["instructions_per_weight"] <= target else "MISSED"
            verdict = f"{target:.2f} {word}"
        config = row["config"]
        tiles = f"{config['block_k']} w{config['num_warps']} s{config['num_stages']} m{config['block_m']}"
        counts = (
            f"{row['instructions_per_weight']:.2f}",
            row["per"],
            f"{row['pop_c_per_weight']:.3f}",
        )
        space = f"{row['registers']}", f"{row['spill_bytes']}", f"{row['shared_bytes'] / 1024:.0f}"
        table.add_row(row["kernel"], row["sparsity"], row["arch"], tiles, *counts, *space, verdict)
    console = Console()
    console.print(table)
    faults = [*gates.broken(programs), *gates.missed(rows)]
    for fault in faults:
        console.print(fault, markup=False)
    console.print(
        f"{len(programs)} programs compiled, {len(faults)} gates broken; table in {static.out}"
    )
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    main(tyro.cli(Static, description=__doc__))
