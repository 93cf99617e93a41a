"""Tiled CSL: scatter the items of a tile into scratch memory, read the tile back dense (Flash-LLM, 2309.10285, figure 6).

The portable twin of the shared-memory kernel: plain Triton has no scatter into shared memory, so every program owns a tile of global
scratch, which stays in cache. It clears what it wrote instead of the whole tile. Right everywhere, fast nowhere; ``num_stages`` must
be 1, since a software pipeline would read a tile before it is written.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nas.kernels.triton.epilogue import put


@triton.jit
def csl_kernel(
    items, starts, scratch, x_t, y, partial, bias, inner, outer, gate, M, N, NP, R, NUM_COLUMNS, NUM_TILES,
    CHUNK: tl.constexpr, BN: tl.constexpr, SPLIT: tl.constexpr,
    ACTIVATION: tl.constexpr, ADAPTER_FIRST: tl.constexpr,
):  # fmt: skip
    """One row of tiles (128 rows), BN tokens and one of SPLIT ranges of its NUM_TILES tiles; items are [nnz, 2]: value, offset."""
    ROWS: tl.constexpr = 128
    COLUMNS: tl.constexpr = 64
    STRIDE: tl.constexpr = 72
    tile_row = tl.program_id(0)
    split = tl.program_id(2)
    tokens = tl.program_id(1) * BN + tl.arange(0, BN)
    program = (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * SPLIT + split
    scratch += program.to(tl.int64) * (ROWS * STRIDE)
    row = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    item = tl.arange(0, CHUNK)
    tile = scratch + row[:, None] * STRIDE + column[None, :]
    per_split = tl.cdiv(NUM_TILES, SPLIT)
    first = split * per_split
    last = tl.minimum(first + per_split, NUM_TILES)
    zero = tl.zeros([CHUNK], items.dtype.element_ty)
    acc = tl.zeros([ROWS, BN], tl.float32)
    tl.store(tile, tl.zeros([ROWS, COLUMNS], items.dtype.element_ty))
    for index in range(first, last):
        begin = tl.load(starts + tile_row * NUM_TILES + index)
        end = tl.load(starts + tile_row * NUM_TILES + index + 1)
        tl.debug_barrier()
        for start in range(begin, end, CHUNK):
            place = items + (start + item).to(tl.int64) * 2
            inside = start + item < end
            value = tl.load(place, inside, other=0.0)
            offset = _offset(tl.load(place + 1, inside, other=0.0))
            tl.store(scratch + offset, value, inside)
        tl.debug_barrier()
        k = index * COLUMNS + column
        b = tl.load(x_t + k[:, None] * NP + tokens[None, :], (k < NUM_COLUMNS)[:, None], other=0.0)
        acc = tl.dot(tl.load(tile), b, acc, input_precision="ieee")
        tl.debug_barrier()
        for start in range(begin, end, CHUNK):
            inside = start + item < end
            bits = tl.load(items + (start + item).to(tl.int64) * 2 + 1, inside, other=0.0)
            tl.store(scratch + _offset(bits), zero, inside)
    put(acc, tile_row * ROWS + row, tokens, split, y, partial, bias, inner, outer, gate, M, N, NP, R,
        SPLIT, ACTIVATION, ADAPTER_FIRST)  # fmt: skip


@triton.jit
def _offset(bits):
    """The place in a tile of 72 columns, of a byte offset of 16-bit weights that is stored as the bits of a number."""
    if bits.dtype.primitive_bitwidth == 16:
        return bits.to(tl.int16, bitcast=True).to(tl.int32) // 2
    else:  # Triton compiles what follows a return, whichever width it is for
        return bits.to(tl.int32, bitcast=True) // 2
