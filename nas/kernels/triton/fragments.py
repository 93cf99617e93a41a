"""Input in fragment order: what one lane of a warp multiplies with in 32 columns is one 16-byte load.

For each block of 32 columns and 8 tokens, ``x_f`` has the 8 values of each lane of ``mma.m16n8k16``'s B operand; lane 4 g + t holds
token g. TENSOR_ORDER places the columns where the tensor core expects them (two steps of 16: 2t, 2t+1, 2t+8, 2t+9) and the blocks of 64
columns side by side, ``[KB / 2, NP / 8, 2, 32, 8]`` for an even number KB of blocks of columns; otherwise a lane holds columns 8t to 8t+7,
for kernels that build the A operand themselves and may permute columns, and blocks are ``[KB, NP / 8, 32, 8]``.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def fragment_tokens(x, x_f, N, K, NB, TENSOR_ORDER: tl.constexpr):
    """One program: 32 columns of 8 tokens; zeros beyond N and K."""
    i = tl.arange(0, 256)
    lane, j = i // 8, i % 8
    t = lane % 4
    if TENSOR_ORDER:
        column = 16 * (j // 4) + 2 * t + j % 2 + 8 * (j % 4 // 2)
    else:
        column = 8 * t + j
    k = tl.program_id(0) * 32 + column
    n = tl.program_id(1) * 8 + lane // 4
    value = tl.load(x + n.to(tl.int64) * K + k, (n < N) & (k < K), other=0.0)
    block = tl.program_id(0).to(tl.int64) * NB + tl.program_id(1)
    if TENSOR_ORDER:
        k_block = tl.program_id(0).to(tl.int64)
        block = (k_block // 2 * NB + tl.program_id(1)) * 2 + k_block % 2
    tl.store(x_f + block * 256 + i, value)
