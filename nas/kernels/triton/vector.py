"""Column vectors: a dense tile of weights straight from memory times gathered rows of the transposed input.

Nothing is decoded: V rows share their kept columns, so the tile [V, BK] is dense and only the rows of ``x_t`` are looked up (the format
of vectorSparse, Chen et al., SC'21). Values are [P, k, V]: V contiguous, which is what a transposed tensor-core operand reads.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nas.kernels.triton.epilogue import put


@triton.jit
def vector_kernel(
    values, columns, x_t, y, partial, bias, inner, outer, gate, M, N, NP, R, NUM_KEPT,
    V: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr, SPLIT: tl.constexpr, EVEN: tl.constexpr,
    ACTIVATION: tl.constexpr, ADAPTER_FIRST: tl.constexpr,
):  # fmt: skip
    """One panel of V rows, BN tokens and one of SPLIT ranges of its kept columns; EVEN: BK divides every range."""
    panel = tl.program_id(0)
    split = tl.program_id(2)
    v = tl.arange(0, V)
    k = tl.arange(0, BK)
    tokens = tl.program_id(1) * BN + tl.arange(0, BN)
    per_split = tl.cdiv(tl.cdiv(NUM_KEPT, BK), SPLIT) * BK
    first = split * per_split
    last = tl.minimum(first + per_split, NUM_KEPT)
    base = panel.to(tl.int64) * NUM_KEPT
    value_block = values + (base + first + k)[None, :] * V + v[:, None]
    column_block = columns + base + first + k
    x_t += tokens[None, :]
    acc = tl.zeros([V, BN], tl.float32)
    for start in range(first, last, BK):
        if EVEN:
            a = tl.load(value_block)
            b = tl.load(x_t + tl.load(column_block)[:, None] * NP)
        else:
            inside = start + k < last
            a = tl.load(value_block, inside[None, :], other=0.0)
            column = tl.load(column_block, inside, other=0)
            b = tl.load(x_t + column[:, None] * NP, inside[:, None], other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee")
        value_block += BK * V
        column_block += BK
    put(acc, panel * V + v, tokens, split, y, partial, bias, inner, outer, gate, M, N, NP, R,
        SPLIT, ACTIVATION, ADAPTER_FIRST)  # fmt: skip
