"""``python -m experiments.kernels.static``: compile every program that dispatch may launch, without a GPU, and count its instructions.

Writes ``static_table.json``: ``programs`` has every program, ``rows`` the best tiles of every kernel and sparsity, which
``experiments.kernels.bound`` turns into predictions. Counts are static: no stalls, no bank conflicts, no latency.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments.kernels import gates
from experiments.kernels.bound import STATIC_TABLE
from experiments.kernels.prediction import kind_of
from experiments.kernels.static_rows import best_rows, measure
from experiments.results import command_line, run
from nas.deploy.runtime import versions
from nas.files import write_text_atomic
from nas.kernels.paths import has_triton, is_interpreted

_SAID_BY_NAME = ("kernel", "sparsity", "format", "dtype", "config", "is_even")


@dataclass(frozen=True)
class Static:
    """What is compiled.

    Args:
        arch: architectures.
        tokens: of one program: 16, 32, 64.
        edges: also the kernels of weights that the tiles do not divide.
        epilogues: also every kernel with an adapter behind the product.
        jobs: processes.
        out: the table.
    """

    arch: tuple[str, ...] = ("sm_80", "sm_90")
    tokens: tuple[int, ...] = (16, 32, 64)
    edges: bool = True
    epilogues: bool = True
    jobs: int = 2
    out: Path = STATIC_TABLE

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ValueError(f"expected jobs of 1 or more, got {self.jobs}")
        if unknown := set(self.arch) - set(gates.MAX_SHARED_BYTES):
            raise ValueError(
                f"expected architectures of {tuple(gates.MAX_SHARED_BYTES)}, got {sorted(unknown)}"
            )


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
        [int(a.removeprefix("sm_")) for a in static.arch],
        static.tokens,
        static.edges,
        static.epilogues,
    )
    # Triton 3.9 warns that 3.10 changes the default; what it is now is what runs
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(static.jobs, mp_context=context) as pool:
        done = pool.map(measure, wanted, chunksize=4)
        return list(track(done, "compiling", len(wanted), console=Console(stderr=True)))


def write_table(path: Path, static: Static, programs: Sequence[dict[str, Any]]) -> None:
    """The table as JSON, one row a line, so that a change of one kernel is a change of a few lines."""
    from nas.kernels.triton.aot import sources_digest

    head = {
        "command": command_line("experiments.kernels.static", static),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions() | {"triton": triton_version()},
        "sources": sources_digest(),
        "targets": gates.TARGETS,
    }
    parts = [f'"{name}": {json.dumps(value)}' for name, value in head.items()]
    short = [{k: v for k, v in row.items() if k not in _SAID_BY_NAME} for row in programs]
    for name, rows in (("rows", best_rows(programs)), ("programs", short)):
        lines = ",\n".join(json.dumps(row, allow_nan=False) for row in rows)
        parts.append(f'"{name}": [\n{lines}\n]')
    write_text_atomic(path, "{\n" + ",\n".join(parts) + "\n}\n")


def triton_version() -> str:
    """Of the installed Triton."""
    return importlib.metadata.version("triton")


def main(static: Static) -> None:
    """Compile, write, print; exit with 1 where a hard gate is broken or a target missed."""
    programs = compile_all(static)
    write_table(static.out, static, programs)
    rows = best_rows(programs)
    table = Table(
        title=f"Thread-instructions per weight at N={gates.TOKENS}, fp16: each kernel's best tiles (static counts)",
        title_justify="left",
    )
    for column in ("sparsity", "card", "tiles", "instr.", "POPC", "regs", "spills", "KiB", "gate"):
        table.add_column(column, no_wrap=True)
    for row in {row["name"]: row for row in rows}.values():
        target = gates.target_of(row)
        is_met = target is None or row["instructions_per_weight"] <= target
        verdict = "-" if target is None else f"{target:.2f} {'beaten' if is_met else 'MISSED'}"
        config = row["config"]
        table.add_row(
            kind_of(row).label if row["format"] == "csl" else kind_of(row).pattern,
            row["arch"],
            f"{config['block_m'] or kind_of(row).sparsity.size}x{config['block_k']} w{config['num_warps']} s{config['num_stages']}",
            f"{row['instructions_per_weight']:.2f}/{row['per'][0]}",
            f"{row['pop_c_per_weight']:.3f}",
            f"{row['registers']}",
            f"{row['spill_bytes']}",
            f"{row['shared_bytes'] / 1024:.0f}",
            verdict,
        )
    table.caption = "tiles: rows x columns, warps, stages; instr.: /d per weight of the dense matrix, /s per stored weight"
    console = Console(width=max(100, Console().width))  # nine columns, also into a file
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
    run(main, Static, __doc__)
