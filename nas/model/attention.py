"""Causal self-attention for training on the CPU: matrix products over blocks of queries, instead of torch's fused kernel.

On a CPU with bfloat16 matrix instructions torch's fused attention does not use them and is the largest part of a small GPT's
training step. Batched products do. They hold the probabilities, T^2 values per head, so long sequences stay with the fused kernel,
which holds none.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

MAX_TOKENS = 512


def fits_blockwise(q_BHTE: Tensor, num_kv_heads: int) -> bool:
    """Whether :func:`blockwise_causal_attention` is the faster way: training on a CPU in reduced precision, short sequences."""
    return (
        q_BHTE.device.type == "cpu"
        and q_BHTE.requires_grad
        and q_BHTE.dtype == torch.bfloat16
        and q_BHTE.shape[1] == num_kv_heads
        and 1 < q_BHTE.shape[2] <= MAX_TOKENS
    )


def blockwise_causal_attention(q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> Tensor:
    """``softmax(q k' / sqrt(E) + causal) v``, ``[B, H, T, E]``, with its gradient.

    Two blocks of queries: the first half sees only the first half of the keys, so a quarter of the
    products, all masked, is never computed.

    Args:
        q_BHTE: queries.
        k_BHTE: keys, as many heads as queries.
        v_BHTE: values.
    """
    batch, heads, num, features = q_BHTE.shape
    q, k, v = (x.reshape(batch * heads, num, features) for x in (q_BHTE, k_BHTE, v_BHTE))
    out: Tensor = _Blockwise.apply(q, k, v)  # type: ignore[no-untyped-call]
    return out.view(batch, heads, num, features)


class _Blockwise(torch.autograd.Function):
    """Over ``[N, T, E]``; N sequences times heads."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        num, scale = q.shape[1], 1.0 / math.sqrt(q.shape[2])
        out = torch.empty_like(v)
        kept = []
        with torch.autocast("cpu", enabled=False):
            for rows, end in _blocks(num):
                future = torch.full((end, end), -math.inf, dtype=q.dtype).triu(1)[rows]
                scores = torch.baddbmm(future, q[:, rows], k[:, :end].mT, alpha=scale)
                kept.append(torch.softmax(scores, dim=-1))
                out[:, rows] = torch.bmm(kept[-1], v[:, :end])
        ctx.save_for_backward(q, k, v, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, *kept = ctx.saved_tensors
        num, scale = q.shape[1], 1.0 / math.sqrt(q.shape[2])
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (rows, end), p in zip(_blocks(num), kept, strict=True):
            dout = grad[:, rows]
            dv[:, :end] += torch.bmm(p.mT, dout)
            dp = torch.bmm(dout, v[:, :end].mT)
            ds = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
            dq[:, rows] = torch.bmm(ds, k[:, :end]).mul_(scale)
            dk[:, :end].add_(torch.bmm(ds.mT, q[:, rows]), alpha=scale)
        return dq, dk, dv


def _blocks(num: int) -> list[tuple[slice, int]]:
    """Rows of queries, and how many keys they see."""
    half = num // 2
    return [(slice(0, half), half), (slice(half, num), num)]
