"""What follows a sparse product inside its kernel: bias, low-rank adapter, activation, gate, store; and the sum of split-K parts.

``y = act(W x + b) [+ B (A x)]``, or ``act(W x + b + B (A x))`` where the adapter belongs to the weight (ADAPTER_FIRST). ``A x`` is a thin
dense product made before; ``B`` is applied on the accumulator, so that the adapter costs no pass over y (SLoPe, 2405.16325, section 2.3).

Shapes: acc [BM, BN] float32, y and gate [N, M], partial [SPLIT, NP, M] float32 with NP tokens padded to whole blocks, inner = A x [N, R],
outer = B [M, R], bias [M].
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def activate(acc, ACTIVATION: tl.constexpr):
    """Activation in float32; the spellings are those of ``nas.kernels.reference``."""
    if ACTIVATION == "relu":
        acc = tl.maximum(acc, 0.0)
    elif ACTIVATION == "silu":
        acc = acc * tl.sigmoid(acc)
    elif ACTIVATION == "gelu":
        acc = 0.5 * acc * (1.0 + tl.erf(acc * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":
        # 0.5 (1 + tanh(z)) = sigmoid(2 z)
        acc = acc * tl.sigmoid(1.5957691216057308 * (acc + 0.044715 * acc * acc * acc))
    return acc


@triton.jit
def add_adapter(acc, rows, tokens, inner, outer, M, N, R):
    """``acc + B (A x)``, 16 of the R ranks at a time: whatever the rank, few registers beside the accumulator."""
    for first in range(0, R, 16):
        r = first + tl.arange(0, 16)
        b = tl.load(
            outer + rows[:, None] * R + r[None, :],
            (rows < M)[:, None] & (r < R)[None, :],
            other=0.0,
        )
        t = tl.load(
            inner + tokens[None, :] * R + r[:, None],
            (r < R)[:, None] & (tokens < N)[None, :],
            other=0.0,
        )
        if acc.shape[1] < 16:  # no tensor core takes so few tokens
            acc += tl.sum(b.to(tl.float32)[:, :, None] * t.to(tl.float32)[None, :, :], 1)
        else:
            acc = tl.dot(b, t, acc, input_precision="ieee")
    return acc


@triton.jit
def finish(
    acc, rows, tokens, y, bias, inner, outer, gate, M, N, R,
    ACTIVATION: tl.constexpr, ADAPTER_FIRST: tl.constexpr,
):  # fmt: skip
    """Apply everything after the product and store [BM, BN] at ``rows`` and ``tokens``; absent parts are None."""
    is_row = rows < M
    inside = is_row[:, None] & (tokens < N)[None, :]
    place = tokens[None, :] * M + rows[:, None]
    if bias is not None:
        acc += tl.load(bias + rows, is_row, other=0.0)[:, None].to(tl.float32)
    if outer is not None and ADAPTER_FIRST:
        acc = add_adapter(acc, rows, tokens, inner, outer, M, N, R)
    acc = activate(acc, ACTIVATION)
    if gate is not None:
        g = tl.load(gate + place, inside, other=0.0).to(tl.float32)
        acc *= g * tl.sigmoid(g)
    if outer is not None and not ADAPTER_FIRST:
        acc = add_adapter(acc, rows, tokens, inner, outer, M, N, R)
    tl.store(y + place, acc.to(y.dtype.element_ty), inside)


@triton.jit
def put(
    acc, rows, tokens, split, y, partial, bias, inner, outer, gate, M, N, NP, R,
    SPLIT: tl.constexpr, ACTIVATION: tl.constexpr, ADAPTER_FIRST: tl.constexpr,
):  # fmt: skip
    """Finish the block, or leave it to :func:`sum_parts` where several programs share it."""
    if SPLIT == 1:
        finish(acc, rows, tokens, y, bias, inner, outer, gate, M, N, R, ACTIVATION, ADAPTER_FIRST)
    else:
        part = partial + split.to(tl.int64) * NP * M
        tl.store(part + tokens[None, :] * M + rows[:, None], acc, (rows < M)[:, None])


@triton.jit
def sum_parts(
    y, partial, bias, inner, outer, gate, M, N, NP, R,
    BM: tl.constexpr, BN: tl.constexpr, SPLIT: tl.constexpr,
    ACTIVATION: tl.constexpr, ADAPTER_FIRST: tl.constexpr,
):  # fmt: skip
    """Sum the split-K parts of [BM, BN] in a fixed order (same bits every time), then finish."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    tokens = tl.program_id(1) * BN + tl.arange(0, BN)
    acc = tl.zeros([BM, BN], tl.float32)
    for split in range(SPLIT):
        part = partial + tl.cast(split, tl.int64) * NP * M
        place = tokens[None, :] * M + rows[:, None]
        acc += tl.load(part + place, (rows < M)[:, None], other=0.0)
    finish(acc, rows, tokens, y, bias, inner, outer, gate, M, N, R, ACTIVATION, ADAPTER_FIRST)


@triton.jit
def transpose_tokens(x, x_t, N, K, NP, BK: tl.constexpr, BN: tl.constexpr):
    """``x_t [K, NP] = x [N, K]`` transposed, zeros for the tokens that pad NP: one kept column is then one contiguous run of tokens."""
    k = tl.program_id(0) * BK + tl.arange(0, BK)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    inside = (k < K)[:, None] & (n < N)[None, :]
    block = tl.load(x + n[None, :].to(tl.int64) * K + k[:, None], inside, other=0.0)
    tl.store(x_t + k[:, None].to(tl.int64) * NP + n[None, :], block, (k < K)[:, None])
