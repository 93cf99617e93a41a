"""What a sparse product costs a GPU beside bytes: the instructions that decode its format, and the zeros it multiplies.

The project's Triton kernels load sparse and compute dense: N:M, CSL and bitmap tiles are decoded to dense ones, so tensor cores multiply
their zeros too; blocks and column vectors multiply stored weights alone. Counts are thread-instructions per weight of the inner
loop, of the best tiles in fp16, the larger of sm_80 and sm_90, in ``experiments/kernels/static_table.json`` (a test holds
them equal): per weight of the dense matrix, or per stored weight.
"""

from __future__ import annotations

import numpy as np

from search_spaces import Sparsity

TOKENS = (16, 32, 64)  # rows of a product that one program holds; more rows decode again

#: Formats whose kernels multiply stored weights only; the others' counts are per weight of the dense matrix.
PER_STORED = ("bsr", "vector")

#: (format, pattern) -> thread-instructions per weight at each of ``TOKENS``; a CSL pattern is its fraction of zeros.
INSTRUCTIONS: dict[tuple[str, str], tuple[float, float, float]] = {
    ("vector", "vector128"): (1.125, 1.6172, 2.4766),
    ("vector", "vector64"): (1.2031, 1.7031, 2.7109),
    ("vector", "vector32"): (1.3281, 1.9922, 3.9531),
    ("bsr", "block64"): (1.1406, 1.6602, 2.5703),
    ("bsr", "block32"): (1.6875, 2.3906, 3.9531),
    ("bsr", "block16"): (2.8281, 3.9062, 6.1406),
    ("nm", "2:4"): (3.4375, 3.5625, 4.0703),
    ("nm", "1:4"): (2.4531, 2.4922, 3.2578),
    ("nm", "2:8"): (3.9922, 4.0391, 4.1641),
    ("nm", "1:8"): (2.3516, 2.3438, 2.957),
    ("csl", "0.50"): (2.6094, 2.9219, 3.5),
    ("csl", "0.70"): (2.0469, 2.3594, 3.0156),
    ("csl", "0.80"): (1.6094, 2.0, 2.7344),
    ("csl", "0.90"): (1.3281, 1.7969, 2.3281),
    ("bitmap", "bitmap"): (9.5312, 9.875, 10.0),
}
_CSL_LEVELS = (0.5, 0.7, 0.8, 0.9)


def instructions_per_weight(sparsity: Sparsity, format: str, tokens: int) -> float | None:
    """Thread-instructions that one program spends on a weight; None for a format that no counted kernel reads (dense, CSR).

    Args:
        sparsity: pattern and level. Between counted levels a CSL count is interpolated; beyond 0.9 it stays (a tile is cleared and
            read whatever it holds), below 0.5 the line goes on.
        format: the weight is stored in.
        tokens: rows of the program; the next of ``TOKENS`` is taken, 64 for more.
    """
    column = min(int(np.searchsorted(TOKENS, tokens)), len(TOKENS) - 1)
    if format == "csl":
        counts = [INSTRUCTIONS["csl", f"{level:.2f}"][column] for level in _CSL_LEVELS]
        slope = (counts[1] - counts[0]) / (_CSL_LEVELS[1] - _CSL_LEVELS[0])
        if sparsity.level < _CSL_LEVELS[0]:
            return counts[0] + slope * (sparsity.level - _CSL_LEVELS[0])
        return float(np.interp(sparsity.level, _CSL_LEVELS, counts))
    label = str(sparsity).partition(":")[0] if format in PER_STORED else str(sparsity)
    row = INSTRUCTIONS.get((format, "bitmap" if format == "bitmap" else label))
    return None if row is None else row[column]


def product_instructions(
    sparsity: Sparsity, format: str, out_features: int, in_features: int, tokens: int
) -> int:
    """Thread-instructions of a product with ``tokens`` rows: each 64 of them decode the weight anew; 0 where nothing was counted."""
    count = instructions_per_weight(sparsity, format, tokens)
    if count is None:
        return 0
    is_stored = format in PER_STORED
    weights = (
        sparsity.nonzeros(out_features, in_features) if is_stored else out_features * in_features
    )
    return round(count * weights * -(-tokens // TOKENS[-1]))


def executed_flops(
    sparsity: Sparsity, format: str, out_features: int, in_features: int, tokens: int
) -> int:
    """FLOPs that a GPU executes for a product with ``tokens`` rows: with the zeros where tiles are decoded to dense ones."""
    if format in ("nm", "csl", "bitmap"):
        return 2 * tokens * out_features * in_features
    return 2 * tokens * sparsity.nonzeros(out_features, in_features)
