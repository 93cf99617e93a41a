"""Static gates: what a compiled kernel must not exceed before anyone times it.

Hard gates hold for every program: it compiles, spills nothing, and its registers and shared memory fit the card. With a bias,
an activation, a gate or an adapter behind the product, a few bytes may be spilled after its loop, never inside.
Targets hold for the best tiles of a kernel, at N = 16 on sm_90. Ceilings hold every program
to the committed table of the same Triton version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.kernels.prediction import kind_of

Row = Mapping[str, Any]

TOKENS, ARCH = 16, "sm_90"
MAX_REGISTERS = 255
MAX_EPILOGUE_SPILL = 32  # bytes of a thread, once, behind the loop
MAX_SHARED_BYTES = {
    "sm_80": 163 * 1024,
    "sm_90": 227 * 1024,
}  # of a block: CUDA C programming guide, table of compute capabilities
SLACK = 1.02  # ptxas schedules by heuristics: an unrelated change moves a few instructions
# Thread-instructions per weight: stored ones for column vectors and blocks, those of the dense matrix otherwise. Each leaves an H200, which
# issues 13.7 per dense weight while memory delivers it, a prediction worth having (experiments.kernels.prediction).
TARGETS = {
    "2:4": 4.1, "1:4": 3.6, "vector128": 1.2, "block64": 2.5, "bitmap": 9.7,
    # a tile is cleared and read whatever it holds; every item is one load, one store and what finds its place
    "csl:0.50": 0.85 + 5 * 0.5, "csl:0.70": 0.85 + 5 * 0.3, "csl:0.80": 0.85 + 5 * 0.2, "csl:0.90": 0.85 + 5 * 0.1,
}  # fmt: skip


def broken(rows: Sequence[Row]) -> list[str]:
    """What breaks a hard gate, in words; empty when all hold."""
    found = []
    for row in rows:
        if "error" in row:
            found.append(f"{row['name']} does not compile: {row['error']}")
            continue
        allowed = MAX_EPILOGUE_SPILL if " bias" in row["name"] else 0
        if row["spill_bytes"] > allowed:
            found.append(f"{row['name']} spills {row['spill_bytes']} bytes, expected {allowed}")
        if row["loop_spills"]:
            found.append(
                f"{row['name']} spills {row['loop_spills']} times in a loop, expected never"
            )
        if row["registers"] > MAX_REGISTERS:
            found.append(
                f"{row['name']} has {row['registers']} registers, expected {MAX_REGISTERS} at most"
            )
        limit = MAX_SHARED_BYTES[row["arch"]]
        if row["shared_bytes"] > limit:
            found.append(
                f"{row['name']} has {row['shared_bytes']} bytes of shared memory, expected {limit} at most"
            )
    return found


def target_of(row: Row) -> float | None:
    """The target that a row of best tiles is held to, if any."""
    if (row["tokens"], row["arch"]) != (TOKENS, ARCH):
        return None
    kind = kind_of(row)
    return TARGETS.get(kind.label, TARGETS.get(kind.pattern))


def missed(rows: Sequence[Row]) -> list[str]:
    """Targets that rows of best tiles miss, in words."""
    return [
        f"{row['kernel']} {row['sparsity']}: {row['instructions_per_weight']:.2f} instructions per weight, expected {target:.2f} at most"
        for row in rows
        if (target := target_of(row)) is not None and row["instructions_per_weight"] > target
    ]


def exceeded(rows: Sequence[Row], committed: Sequence[Row]) -> list[str]:
    """Programs with more instructions per weight than the committed table allows, and programs it does not know, in words."""
    ceilings = {row["name"]: row.get("instructions_per_weight") for row in committed}
    found = []
    for row in rows:
        count = row.get("instructions_per_weight")
        if row["name"] not in ceilings:
            found.append(f"{row['name']} is not in the committed table")
        elif count is not None and count > SLACK * (ceilings[row["name"]] or 0.0):
            found.append(
                f"{row['name']}: {count:.3f} instructions per weight, expected {ceilings[row['name']]} and 2 % at most"
            )
    return found
