"""BSR: several blocks of a block row at once, each against its own run of rows of the transposed input.

One block a turn leaves the loop dominated by its own bookkeeping (16 x 16: 4.75 thread-instructions a weight); BK / B blocks are one tile
[B, BK] whose columns know their block.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nas.kernels.triton.epilogue import put


@triton.jit
def bsr_kernel(
    values, columns, row_starts, x_t, y, partial, bias, inner, outer, gate, M, N, NP, R,
    B: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr, SPLIT: tl.constexpr,
    ACTIVATION: tl.constexpr, ADAPTER_FIRST: tl.constexpr,
):  # fmt: skip
    """One block row, BN tokens and one of SPLIT ranges of its blocks."""
    BLOCKS: tl.constexpr = BK // B
    block_row = tl.program_id(0)
    split = tl.program_id(2)
    tokens = tl.program_id(1) * BN + tl.arange(0, BN)
    begin = tl.load(row_starts + block_row)
    end = tl.load(row_starts + block_row + 1)
    per_split = tl.cdiv(tl.cdiv(end - begin, BLOCKS), SPLIT) * BLOCKS
    first = begin + split * per_split
    last = tl.minimum(first + per_split, end)
    row = tl.arange(0, B)
    k = tl.arange(0, BK)
    which, inside_block = k // B, k % B
    # values [n, B, B]: columns of one block are contiguous, blocks are B * B apart
    value_block = values + first.to(tl.int64) * (B * B)
    value_block += (which * (B * B) + inside_block)[None, :] + row[:, None] * B
    x_t += inside_block[:, None] * NP + tokens[None, :]
    acc = tl.zeros([B, BN], tl.float32)
    for index in range(first, last, BLOCKS):
        inside = index + which < last
        a = tl.load(value_block, inside[None, :], other=0.0)
        column = tl.load(columns + index + which, inside, other=0)
        b = tl.load(x_t + column[:, None] * (B * NP), inside[:, None], other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee")
        value_block += BLOCKS * B * B
    put(acc, block_row * B + row, tokens, split, y, partial, bias, inner, outer, gate, M, N, NP, R,
        SPLIT, ACTIVATION, ADAPTER_FIRST)  # fmt: skip
