"""Rows of the static table: one for every program, and the best tiles of every kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from experiments.kernels.gates import TOKENS
from experiments.kernels.shapes import LEVELS

if TYPE_CHECKING:
    from nas.kernels.triton.aot import Program

ANY = (
    "csl any"  # begins the names of CSL kernels for tiles from empty to full: an extreme, no level
)


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
    except Exception as error:
        # whatever the compiler raises, the other programs are to be compiled all the same
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        return row | {"error": f"{type(cause).__name__}: {str(cause)[:200]}"}
    row |= {
        "registers": code.registers,
        "spill_bytes": code.spill_bytes,
        "loop_spills": code.loop_spills,
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

    Counted are tiles that divide the weight; column vectors whose kept columns they do not divide take up to twice as many (``uneven``
    among the programs). All but CSL need the same instructions at every level, which is then each of the levels that are measured.
    """
    best: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in programs:
        is_typical = row["is_even"] and row["dtype"] == "fp16" and not row["name"].startswith(ANY)
        count = row.get("instructions_per_weight")
        if not is_typical or row["tokens"] != TOKENS or count is None:
            continue
        pattern = row["sparsity"].partition(":")[0]
        has_levels = not pattern.isdigit() and row["format"] != "csl"
        for label in [f"{pattern}:{x:.2f}" for x in LEVELS] if has_levels else [row["sparsity"]]:
            key = (row["format"], label, row["arch"])
            if key not in best or count < best[key]["instructions_per_weight"]:
                best[key] = row | {"sparsity": label}
    return list(best.values())
