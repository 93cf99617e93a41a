"""CSR: gather and multiply-add for one to four tokens, without tensor cores and without a dense tile.

At high sparsity and few tokens a dense tile costs more than the weights it is made of; here every kept weight is read, its input looked
up (it is small and stays in cache) and multiplied once (the row-split of Sputnik, Gale et al., 2006.10901).
"""

from __future__ import annotations

import triton
import triton.language as tl

from nas.kernels.triton.epilogue import put


@triton.jit
def csr_kernel(
    values, columns, row_starts, x, y, partial, bias, inner, outer, gate, M, N, NP, R, NUM_COLUMNS,
    BM: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr, SPLIT: tl.constexpr,
    ACTIVATION: tl.constexpr, ADAPTER_FIRST: tl.constexpr,
):  # fmt: skip
    """BM rows, BN tokens (1, 2 or 4) and one of SPLIT ranges of each row's kept weights; x is [N, K]."""
    split = tl.program_id(2)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    tokens = tl.program_id(1) * BN + tl.arange(0, BN)
    begin = tl.load(row_starts + rows, rows < M, other=0)
    end = tl.load(row_starts + rows + 1, rows < M, other=0)
    per_split = tl.cdiv(end - begin, SPLIT)
    first = begin + split * per_split
    last = tl.minimum(first + per_split, end)
    k = tl.arange(0, BK)
    acc = tl.zeros([BM, BN], tl.float32)
    for start in range(0, tl.max(last - first), BK):
        place = (first + start)[:, None] + k[None, :]
        inside = place < last[:, None]
        value = tl.load(values + place, inside, other=0.0).to(tl.float32)
        column = tl.load(columns + place, inside, other=0)
        keep = inside[:, :, None] & (tokens < N)[None, None, :]
        entry = tl.load(
            x + column[:, :, None] + tokens[None, None, :].to(tl.int64) * NUM_COLUMNS,
            keep,
            other=0.0,
        )
        acc += tl.sum(value[:, :, None] * entry.to(tl.float32), axis=1)
    put(acc, rows, tokens, split, y, partial, bias, inner, outer, gate, M, N, NP, R,
        SPLIT, ACTIVATION, ADAPTER_FIRST)  # fmt: skip
