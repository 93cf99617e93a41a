"""The transformer's arithmetic, written once: the supernet and the extracted GPT differ only in where weights come from.

Shapes: B sequences, T new tokens, S tokens in the cache and new ones together, D embedding features, H query heads, G key/value heads,
E features of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.model.attention import blockwise_causal_attention, fits_blockwise
from nas.model.cache import KVCache
from search_spaces import Family

LinearFn = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class NormWeights:
    """Weight ``[D]`` and, for LayerNorm, bias ``[D]``."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class AttentionWeights:
    """One attention: ``qkv`` maps ``[B, T, D]`` to queries ``[B, T, H E]`` and keys and values ``[B, T, G E]``."""

    norm: NormWeights
    qkv: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    o: LinearFn
    num_heads: int
    num_kv_heads: int


@dataclass(frozen=True)
class FFNWeights:
    """One feed-forward network; ``gate`` is None unless the activation is SwiGLU.

    ``fused_up``, where given, is the up-projection with everything up to the down-projection.
    """

    norm: NormWeights
    gate: LinearFn | None
    up: LinearFn
    down: LinearFn
    fused_up: LinearFn | None = None


@dataclass(frozen=True)
class GPTWeights:
    """Everything a forward pass reads; a layer is (attention or None, FFN or None)."""

    embedding: Tensor
    positions: Tensor | None
    layers: tuple[tuple[AttentionWeights | None, FFNWeights | None], ...]
    final_norm: NormWeights
    unembed: LinearFn


def gpt_forward(
    family: Family, weights: GPTWeights, tokens_BT: Tensor, cache: KVCache | None = None
) -> Tensor:
    """Logits of a batch of token sequences.

    Args:
        family: norm, activation, positions and residual form.
        weights: of one subnet.
        tokens_BT: token ids.
        cache: keys and values of earlier tokens; extended in place when given.

    Returns:
        Logits ``[B, T, V]``.

    Raises:
        ValueError: if the sequence is longer than the family's context.
    """
    start = 0 if cache is None else cache.length
    num_new = tokens_BT.shape[1]
    if start + num_new > family.context_length:
        raise ValueError(
            f"expected at most {family.context_length} tokens of context, got {start} cached and {num_new} new; "
            "crop the sequence or start a new cache"
        )
    x = F.embedding(tokens_BT, weights.embedding)
    if weights.positions is not None:
        x = x + weights.positions[start : start + num_new]
    rotary = None
    if family.positions == "rotary":
        rotary = rotary_table(family, start, num_new, x.device, x.dtype)
    for index, (attention, ffn) in enumerate(weights.layers):
        if family.residual == "parallel":
            base = x
            if attention is not None:
                x = x + _attention(family, attention, base, rotary, cache, index)
            if ffn is not None:
                x = x + _ffn(family, ffn, base)
        else:
            if attention is not None:
                x = x + _attention(family, attention, x, rotary, cache, index)
            if ffn is not None:
                x = x + _ffn(family, ffn, x)
    if cache is not None:
        cache.length = start + num_new
    return weights.unembed(_norm(family, weights.final_norm, x))


def _norm(family: Family, norm: NormWeights, x: Tensor) -> Tensor:
    if family.norm == "rmsnorm":
        return F.rms_norm(x, (x.shape[-1],), norm.weight, 1e-5)
    return torch.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, 1e-5)


def _attention(
    family: Family,
    weights: AttentionWeights,
    x_BTD: Tensor,
    rotary: tuple[Tensor, Tensor] | None,
    cache: KVCache | None,
    layer: int,
) -> Tensor:
    batch, num_new, _ = x_BTD.shape
    q, k, v = weights.qkv(_norm(family, weights.norm, x_BTD))
    q = _heads(q, batch, num_new, weights.num_heads, family.head_dim)
    k = _heads(k, batch, num_new, weights.num_kv_heads, family.head_dim)
    v = _heads(v, batch, num_new, weights.num_kv_heads, family.head_dim)
    if rotary is not None:
        q, k = apply_rotary(q, rotary), apply_rotary(k, rotary)
    mask = None
    is_causal = bool(num_new > 1)  # a plain bool also where the length is a symbol
    if cache is not None:
        k, v = cache.extend(layer, k, v)
        num_cached = k.shape[2] - num_new
        # Torch's causal flag aligns top-left; new tokens sit at the end.
        if num_new > 1 and num_cached:
            mask = torch.ones(num_new, k.shape[2], dtype=torch.bool, device=x_BTD.device)
            mask, is_causal = mask.tril(num_cached), False
    if cache is None and fits_blockwise(q, weights.num_kv_heads):
        attended = blockwise_causal_attention(q, k, v)
    else:
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=is_causal, enable_gqa=family.queries_per_kv_head > 1
        )
    if num_new > 1:
        attended = attended.transpose(1, 2)
    return weights.o(attended.reshape(batch, num_new, -1))


def _heads(x: Tensor, batch: int, num_new: int, heads: int, head_dim: int) -> Tensor:
    """``[B, T, H E]`` as ``[B, H, T, E]``."""
    if num_new == 1:  # the same memory either way; a decode step is short enough to feel a call
        return x.view(batch, heads, 1, head_dim)
    return x.view(batch, num_new, heads, head_dim).transpose(1, 2)


def _ffn(family: Family, weights: FFNWeights, x_BTD: Tensor) -> Tensor:
    x_BTD = _norm(family, weights.norm, x_BTD)
    if weights.fused_up is not None:
        return weights.down(weights.fused_up(x_BTD))
    if weights.gate is not None:
        return weights.down(F.silu(weights.gate(x_BTD)) * weights.up(x_BTD))
    approximate = "tanh" if family.activation == "gelu_tanh" else "none"
    return weights.down(F.gelu(weights.up(x_BTD), approximate=approximate))


def rotary_table(
    family: Family, start: int, num: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``[T, R]`` of positions ``start .. start + num`` (Su et al., 2104.09864, eq. 34), base 10 000."""
    half = family.rotary_dim // 2
    # Large angles need more digits than bfloat16 has.
    exact = torch.promote_types(dtype, torch.float32)
    frequency = 10000.0 ** (-torch.arange(half, device=device, dtype=exact) / half)
    position = torch.arange(start, start + num, device=device, dtype=exact)
    angle = torch.outer(position, frequency).repeat(1, 2)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def apply_rotary(x_BHTE: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the first R features of every head, pairing feature i with i + R/2 (as GPT-NeoX does)."""
    cos, sin = (part.to(x_BHTE.dtype) for part in table)
    rotary_dim = cos.shape[-1]
    x, rest = x_BHTE[..., :rotary_dim], x_BHTE[..., rotary_dim:]
    first, second = x.chunk(2, dim=-1)
    rotated = x * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((rotated, rest), dim=-1) if rest.shape[-1] else rotated
