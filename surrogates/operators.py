"""Operators of a GPT in decode, prefill and training: what each launches, computes and moves, on no device in particular.

Zeros of a sparse weight cost neither FLOPs nor, beyond its format's indices, bytes; a dropped attention or FFN part has no operators
at all. An architecture is a bag of parts (its attention blocks, its FFN blocks, the rest), each computed once.

n architectures, f quantities, p different parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from search_spaces import (
    Architecture,
    Family,
    LayerConfig,
    LinearShape,
    Sparsity,
    Workload,
    layer_linears,
)
from search_spaces.costs import WeightGradient, check_weight_gradient
from search_spaces.formats import default_format
from surrogates.base import FloatArray
from surrogates.decode_cost import executed_flops, product_instructions
from surrogates.device_spec import value_bytes
from surrogates.training import backward_operators, update_bytes

SPARSE_KINDS = ("n:m", "unstructured", "block", "vector")
KINDS = (
    "forward",
    "elementwise",
    "dense",
    "bias",
    *SPARSE_KINDS,
    "adapter",
    "attention",
    "unembed",
)


@dataclass(frozen=True)
class Operator:
    """One operator of a forward pass or of a training step.

    Args:
        kind: ``dense``, a sparsity pattern, ``adapter``, ``attention``, ``elementwise`` (norms, activations, sums, lookups), ``bias``,
            ``unembed`` (the output layer), ``forward`` (what one call costs before its first operator) or ``optimizer``.
        launches: kernels launched; 0 when fused into the operator before it.
        flops: floating-point operations, two per multiply-accumulate with a kept weight.
        weight_bytes: bytes of weights read, in their stored format.
        activation_bytes: bytes of inputs, outputs and KV cache moved.
        dense_flops: what ``flops`` would be without the zeros; 0 unless the operator is sparse.
        executed_flops: what the project's GPU kernels execute of them, zeros of decoded tiles included; 0 unless it is sparse.
        instructions: thread-instructions that those kernels spend; 0 where they were not counted.
    """

    kind: str
    launches: int
    flops: int = 0
    weight_bytes: int = 0
    activation_bytes: int = 0
    dense_flops: int = 0
    executed_flops: int = 0
    instructions: int = 0


# What a layer part is made of: (kind, embed_dim, bias, heads or FFN ratio, sparsity, adapter rank).
_Part = tuple[str, int, bool, float, Sparsity | None, int]


def linear_operators(shape: LinearShape, rows: int, itemsize: int) -> list[Operator]:
    """The product of a linear layer with ``rows`` tokens; its adapter and its bias follow as operators of their own."""
    weights = shape.out_features * shape.in_features
    moved = rows * (shape.out_features + shape.in_features) * itemsize
    stored = shape.sparsity.stored_bytes(shape.out_features, shape.in_features, itemsize)
    flops = 2 * rows * shape.nonzeros
    if shape.sparsity.is_dense:
        found = [Operator("dense", 1, flops, stored, moved)]
    else:
        format = default_format(shape.sparsity, itemsize)
        product = (shape.sparsity, format, shape.out_features, shape.in_features, rows)
        # CSR, the format of wider values, has no kernel on tensor cores: nothing was counted for it.
        found = [
            Operator(
                shape.sparsity.pattern,
                1,
                flops,
                stored,
                moved,
                dense_flops=2 * rows * weights,
                executed_flops=executed_flops(*product),
                instructions=product_instructions(*product),
            )
        ]
    if shape.adapter_rank:  # two thin products; the sum with the main one is fused into the second
        params = shape.adapter_params
        between = 2 * rows * shape.adapter_rank * itemsize
        found.append(Operator("adapter", 2, 2 * rows * params, params * itemsize, moved + between))
    if shape.bias:
        found.append(Operator("bias", 0, rows * shape.out_features, shape.out_features * itemsize))
    return found


def _part_operators(
    part: _Part,
    family: Family,
    workload: Workload,
    itemsize: int,
    weight_gradient: WeightGradient = "sparse",
) -> list[Operator]:
    forward, kept = _forward(part, family, workload, itemsize)
    if workload.phase != "training":
        return forward
    rows = workload.num_tokens
    found = list(forward)
    if part[0] == "model":  # the loss reads the logits and leaves their gradient
        moved = 2 * rows * family.vocab_size * itemsize
        found.append(Operator("elementwise", 1, activation_bytes=moved))
    for op in reversed(forward):
        found += backward_operators(op, rows, itemsize, weight_gradient)
    found.append(Operator("optimizer", 1, weight_bytes=update_bytes(kept, itemsize)))
    return found


def _forward(
    part: _Part, family: Family, workload: Workload, itemsize: int
) -> tuple[list[Operator], int]:
    """Operators of a forward pass over a part, and the numbers that the part keeps."""
    kind, embed_dim, bias, width, sparsity, rank = part
    rows, batch, context = workload.num_tokens, workload.batch, workload.context
    norm_params = embed_dim * (2 if family.norm == "layernorm" else 1)

    def elementwise(features: int, weights: int = 0, launches: int = 1) -> Operator:
        return Operator(
            "elementwise", launches, 0, weights * itemsize, 2 * rows * features * itemsize
        )

    norm = elementwise(embed_dim, norm_params)
    if kind == "model":
        lookups = 2 if family.positions == "learned" else 1
        logits = family.vocab_size
        tables = logits * (1 if family.tied_embeddings else 2)
        tables += family.context_length if family.positions == "learned" else 0
        found = [
            Operator("forward", 1),
            elementwise(embed_dim * lookups, launches=lookups),
            norm,
            Operator(
                "unembed",
                1,
                2 * rows * logits * embed_dim,
                logits * embed_dim * itemsize,
                rows * (logits + embed_dim) * itemsize,
            ),
        ]
        return found, tables * embed_dim + norm_params
    assert sparsity is not None
    residual = elementwise(embed_dim)
    if kind == "ffn":
        config = LayerConfig.make(0, width, False, True, ffn_sparsity=sparsity, adapter_rank=rank)
        linears = layer_linears(config, embed_dim, bias, family)
        gates = 2 if family.activation == "swiglu" else 1
        activation = elementwise(gates * int(width * embed_dim), launches=gates)
        extra = [norm, activation, residual]
    else:
        heads = int(width)
        config = LayerConfig.make(
            heads, 0, True, False, attention_sparsity=sparsity, adapter_rank=rank
        )
        linears = layer_linears(config, embed_dim, bias, family)
        queries, keys = heads * family.head_dim, family.kv_heads(heads) * family.head_dim
        if (
            workload.phase == "decode"
        ):  # the new token sees itself and everything before it; the cache is read once
            pairs, cached = batch * (context + 1), batch * (context + 1)
        else:
            pairs, cached = batch * context * (context + 1) // 2, rows
        moved = (2 * cached * keys + 2 * rows * queries) * itemsize
        extra = [norm, Operator("attention", 1, 4 * pairs * queries, 0, moved), residual]
        if family.positions == "rotary":
            extra.append(elementwise(queries + keys, launches=2))
        if workload.phase == "decode":
            extra.append(elementwise(2 * keys, launches=2))  # the new key and value join the cache
    kept = norm_params + sum(
        shape.macs + (shape.out_features if shape.bias else 0) for shape in linears
    )
    return extra + [op for shape in linears for op in linear_operators(shape, rows, itemsize)], kept


def _parts(architecture: Architecture) -> list[_Part]:
    embed_dim, bias = architecture.embed_dim, architecture.bias
    found: list[_Part] = [("model", embed_dim, False, 0.0, None, 0)]
    for layer in architecture.layers:
        found += _layer_parts(layer, embed_dim, bias)
    return found


def _layer_parts(layer: LayerConfig, embed_dim: int, bias: bool) -> list[_Part]:
    found: list[_Part] = []
    for kind, present, width, sparsity in (
        ("attention", layer.attention, layer.num_heads, layer.attention_sparsity),
        ("ffn", layer.ffn, layer.ffn_ratio, layer.ffn_sparsity),
    ):
        if present:
            rank = 0 if sparsity.is_dense else layer.adapter_rank
            found.append((kind, embed_dim, bias, float(width), sparsity, rank))
    return found


def operators(
    architecture: Architecture,
    family: Family,
    workload: Workload,
    dtype: str = "float32",
    weight_gradient: WeightGradient = "sparse",
) -> tuple[Operator, ...]:
    """Every operator of one forward pass or of one training step.

    Args:
        architecture: the subnet.
        family: what its search space holds fixed.
        workload: decode (one token per sequence, from a KV cache), prefill or training (forward, backward and AdamW).
        dtype: of weights, activations and gradients.
        weight_gradient: of sparse weights in training: ``sparse`` or ``dense`` (:func:`search_spaces.training_flops`).

    Raises:
        ValueError: if a sparsity does not divide a matrix, or the dtype or the weight gradient is unknown.
    """
    check_weight_gradient(weight_gradient)
    itemsize = value_bytes(dtype)
    return tuple(
        op
        for part in _parts(architecture)
        for op in _part_operators(part, family, workload, itemsize, weight_gradient)
    )


def sum_over_parts(
    architectures: Sequence[Architecture],
    family: Family,
    workload: Workload,
    dtype: str,
    measure: Callable[[list[Operator]], FloatArray],
    weight_gradient: WeightGradient = "sparse",
) -> FloatArray:
    """Add up ``measure`` of the parts of each architecture: [n, f], each different part measured once."""
    itemsize = value_bytes(dtype)
    ids: dict[_Part, int] = {}
    by_layer: dict[tuple[LayerConfig, int, bool], list[int]] = {}
    rows: list[int] = []
    columns: list[int] = []
    for row, architecture in enumerate(architectures):
        embed_dim, bias = architecture.embed_dim, architecture.bias
        found = [ids.setdefault(("model", embed_dim, False, 0.0, None, 0), len(ids))]
        for layer in architecture.layers:
            key = (layer, embed_dim, bias)
            if key not in by_layer:
                parts = _layer_parts(layer, embed_dim, bias)
                by_layer[key] = [ids.setdefault(part, len(ids)) for part in parts]
            found += by_layer[key]
        columns += found
        rows += [row] * len(found)
    table_pf = np.array(
        [
            measure(_part_operators(part, family, workload, itemsize, weight_gradient))
            for part in ids
        ]
    )
    n, p = len(architectures), len(ids)
    cells = np.asarray(rows, dtype=np.int64) * p + np.asarray(columns, dtype=np.int64)
    counts_np = np.bincount(cells, minlength=n * p).reshape(n, p).astype(np.float64)
    total: FloatArray = counts_np @ table_pf.reshape(p, -1)
    return total
