"""Costs that are known exactly: parameters, non-zeros, stored bytes, FLOPs and KV-cache bytes, in closed form.

Conventions: a multiply-accumulate is two FLOPs; zeros of a sparse weight cost none; norms, activations and softmax are not
counted (as in Kaplan et al., 2001.08361, table 1). Tied embeddings count once as parameters and once as output FLOPs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from search_spaces.architecture import Architecture, LayerConfig
from search_spaces.family import Family
from search_spaces.shapes import layer_linears

#: Which gradient a sparse weight gets: of kept weights only (SPDF 2303.10464, S2D 2304.05511), or of all (SLoPe 2405.16325).
WeightGradient = Literal["sparse", "dense"]


@dataclass(frozen=True)
class Costs:
    """What an architecture costs before anything is measured.

    Args:
        params: trainable numbers, positions that sparsity sets to zero included.
        nonzeros: numbers that are kept.
        weight_bytes: bytes of all weights in their stored formats.
        kv_bytes_per_token: bytes of KV cache that one token of one sequence adds.
    """

    params: int
    nonzeros: int
    weight_bytes: int
    kv_bytes_per_token: int


@dataclass(frozen=True)
class _LayerCosts:
    params: int
    nonzeros: int
    weight_bytes: int
    macs: int
    dense_macs: int
    query_features: int
    kv_features: int


@lru_cache(maxsize=65536)
def _layer_costs(
    config: LayerConfig, embed_dim: int, bias: bool, family: Family, value_bytes: int
) -> _LayerCosts:
    shapes = layer_linears(config, embed_dim, bias, family)
    norm_params = embed_dim * (2 if family.norm == "layernorm" else 1)
    # Parallel residual keeps one norm per part, as GPT-NeoX does: a dropped part takes its norm with it.
    dense = norm_params * (config.attention + config.ffn)
    dense += sum(s.adapter_params + (s.out_features if s.bias else 0) for s in shapes)
    weights = sum(s.out_features * s.in_features for s in shapes)
    stored = sum(
        s.sparsity.stored_bytes(s.out_features, s.in_features, value_bytes) for s in shapes
    )
    heads = config.num_heads
    return _LayerCosts(
        params=dense + weights,
        nonzeros=dense + sum(s.nonzeros for s in shapes),
        weight_bytes=dense * value_bytes + stored,
        macs=sum(s.macs for s in shapes),
        dense_macs=weights + sum(s.adapter_params for s in shapes),
        query_features=heads * family.head_dim,
        kv_features=2 * family.kv_heads(heads) * family.head_dim if heads else 0,
    )


def _layers(architecture: Architecture, family: Family, value_bytes: int) -> list[_LayerCosts]:
    return [
        _layer_costs(layer, architecture.embed_dim, architecture.bias, family, value_bytes)
        for layer in architecture.layers
    ]


def costs(architecture: Architecture, family: Family, value_bytes: int = 4) -> Costs:
    """Parameters, non-zeros, stored bytes and KV bytes of an architecture.

    Args:
        architecture: the subnet.
        family: what its search space holds fixed.
        value_bytes: bytes of one number (4 for float32, 2 for bfloat16).

    Raises:
        ValueError: if a sparsity does not divide a matrix, or ``value_bytes`` is not 1, 2, 4 or 8.
    """
    if value_bytes not in (1, 2, 4, 8):
        raise ValueError(f"expected value_bytes of 1, 2, 4 or 8, got {value_bytes!r}")
    embed_dim = architecture.embed_dim
    embeddings = family.vocab_size * embed_dim * (1 if family.tied_embeddings else 2)
    if family.positions == "learned":
        embeddings += family.context_length * embed_dim
    final_norm = embed_dim * (2 if family.norm == "layernorm" else 1)
    layers = _layers(architecture, family, value_bytes)
    return Costs(
        params=embeddings + final_norm + sum(layer.params for layer in layers),
        nonzeros=embeddings + final_norm + sum(layer.nonzeros for layer in layers),
        weight_bytes=(embeddings + final_norm) * value_bytes
        + sum(layer.weight_bytes for layer in layers),
        kv_bytes_per_token=sum(layer.kv_features for layer in layers) * value_bytes,
    )


def decode_flops(architecture: Architecture, family: Family, context: int) -> int:
    """FLOPs of one new token of one sequence that already holds ``context`` tokens.

    The linears cost two FLOPs a kept weight; the scores and the weighted sum cost ``4 (context +
    1)`` a query feature.
    """
    layers = _layers(architecture, family, 4)
    linear = family.vocab_size * architecture.embed_dim + sum(layer.macs for layer in layers)
    return 2 * linear + 4 * (context + 1) * sum(layer.query_features for layer in layers)


def prefill_flops(architecture: Architecture, family: Family, context: int) -> int:
    """FLOPs of a causal forward pass over one prompt of ``context`` tokens, logits at every position included.

    Position t attends to t + 1 positions: ``context (context + 1) / 2`` pairs in all.
    """
    layers = _layers(architecture, family, 4)
    linear = family.vocab_size * architecture.embed_dim + sum(layer.macs for layer in layers)
    pairs = context * (context + 1) // 2
    return 2 * linear * context + 4 * pairs * sum(layer.query_features for layer in layers)


def training_flops(
    architecture: Architecture,
    family: Family,
    context: int,
    *,
    weight_gradient: WeightGradient = "sparse",
    causal: bool = True,
) -> int:
    """FLOPs of forward and backward of one sequence of ``context`` tokens; multiply by the batch for a step.

    Every product of the forward pass has two in the backward pass: the gradient of its input, which costs the same, and the gradient
    of its weight (in attention: of its other input), which costs the same or, with a dense weight gradient, as much as without zeros.
    With a sparse one the whole is three forward passes. The optimizer's few operations a weight are not counted.

    Args:
        architecture: the subnet.
        family: what its search space holds fixed.
        context: tokens of the sequence.
        weight_gradient: ``sparse`` (kept weights only: SPDF, S2D) or ``dense`` (all weights: SLoPe, eq. 4.5 of the thesis).
        causal: count the ``context (context + 1) / 2`` pairs that a causal mask leaves; otherwise all ``context^2``, as SPDF does.

    Raises:
        ValueError: if ``weight_gradient`` is neither.
    """
    check_weight_gradient(weight_gradient)
    layers = _layers(architecture, family, 4)
    unembed = family.vocab_size * architecture.embed_dim
    forward = unembed + sum(layer.macs for layer in layers)
    dense = unembed + sum(layer.dense_macs for layer in layers)
    linear = 2 * forward + (dense if weight_gradient == "dense" else forward)
    pairs = context * (context + 1) // 2 if causal else context**2
    return 2 * linear * context + 12 * pairs * sum(layer.query_features for layer in layers)


def check_weight_gradient(weight_gradient: str) -> None:
    """Refuse what is no kind of weight gradient.

    Raises:
        ValueError: naming the kinds.
    """
    if weight_gradient not in get_args(WeightGradient):
        raise ValueError(
            f"expected a weight gradient in {get_args(WeightGradient)}, got {weight_gradient!r}"
        )
