"""Bitmap: a weight's place among the values is the number of bits set before its own (SpInfer, EuroSys'25).

The portable twin of the register kernel: every weight counts its bits and loads its value, two gathers that stay in cache.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nas.kernels.triton.epilogue import put


@triton.jit
def count_bits(word):
    """Set bits of each 32-bit word (Hacker's Delight, figure 5-2), where there is no population count to call."""
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return ((word * 0x01010101) >> 24) & 0x3F


@triton.jit
def bitmap_kernel(
    values, tiles, x_t, y, partial, bias, inner, outer, gate, M, N, NP, R, NUM_COLUMNS, NUM_TILES,
    BM: tl.constexpr, BN: tl.constexpr, SPLIT: tl.constexpr,
    ACTIVATION: tl.constexpr, ADAPTER_FIRST: tl.constexpr,
):  # fmt: skip
    """BM rows, BN tokens and one of SPLIT ranges of NUM_TILES tiles of 8 x 32; a record is 11 words."""
    split = tl.program_id(2)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    tokens = tl.program_id(1) * BN + tl.arange(0, BN)
    c = tl.arange(0, 32)
    is_row = rows < M
    per_split = tl.cdiv(NUM_TILES, SPLIT)
    first = split * per_split
    last = tl.minimum(first + per_split, NUM_TILES)
    acc = tl.zeros([BM, BN], tl.float32)
    for index in range(first, last):
        tile = (rows // 8) * NUM_TILES + index
        record = tiles + tile * 11
        word = tl.load(record + rows % 8, is_row, other=0)
        begin = tl.load(record + 8, is_row, other=0)
        begin += (tl.load(record + 9 + rows % 8 // 4, is_row, other=0) >> (8 * (rows % 4))) & 0xFF
        # bits below c, without the undefined shift by 32
        below = (word[:, None] << (31 - c)[None, :] << 1).to(tl.uint32, bitcast=True)
        place = begin[:, None] + count_bits(below).to(tl.int32)
        kept = ((word[:, None] >> c[None, :]) & 1) == 1
        a = tl.load(values + place, kept, other=0.0)
        k = index * 32 + c
        b = tl.load(x_t + k[:, None] * NP + tokens[None, :], (k < NUM_COLUMNS)[:, None], other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee")
    put(acc, rows, tokens, split, y, partial, bias, inner, outer, gate, M, N, NP, R,
        SPLIT, ACTIVATION, ADAPTER_FIRST)  # fmt: skip
