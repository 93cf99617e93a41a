"""Analytic cost of a forward pass: operators, their counts, and their time on a device (Williams et al. 2009, CACM 52(4)).

An operator takes ``overhead x launches + max(flops / peak, bytes / bandwidth)`` seconds; a forward pass is their sum. Zeros of a
sparse weight cost neither FLOPs nor, beyond its format's indices, bytes; a dropped attention or FFN part has no operators at all.

The counts by kind of operator are also what learned surrogates start from (:func:`feature_matrix`): they mean the same on every
device, space and workload. An architecture is a bag of parts (its attention blocks, its FFN blocks, the rest), each computed once.

n architectures, f features, p different parts.
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
from surrogates.base import FloatArray
from surrogates.devices import DeviceSpec, device, value_bytes
from surrogates.kernel_table import KernelTable
from surrogates.linears import linears_us

_SPARSE_KINDS = ("n:m", "unstructured", "block", "vector")
_KINDS = (
    "forward",
    "elementwise",
    "dense",
    "bias",
    *_SPARSE_KINDS,
    "adapter",
    "attention",
    "unembed",
)
KERNELS = "kernels.us"
_QUANTITIES = ("launches", "flops", "bytes", "dense_flops")


@dataclass(frozen=True)
class Operator:
    """One operator of a forward pass.

    Args:
        kind: ``dense``, a sparsity pattern, ``adapter``, ``attention``, ``elementwise`` (norms, activations, sums, lookups), ``bias``,
            ``unembed`` (the output layer) or ``forward`` (what one call costs before its first operator).
        launches: kernels launched; 0 when fused into the operator before it.
        flops: floating-point operations, two per multiply-accumulate with a kept weight.
        weight_bytes: bytes of weights read, in their stored format.
        activation_bytes: bytes of inputs, outputs and KV cache moved.
        dense_flops: what ``flops`` would be without the zeros; 0 unless the operator is sparse.
    """

    kind: str
    launches: int
    flops: int = 0
    weight_bytes: int = 0
    activation_bytes: int = 0
    dense_flops: int = 0


# What a layer part is made of: (kind, embed_dim, bias, heads or FFN ratio, sparsity, adapter rank).
_Part = tuple[str, int, bool, float, Sparsity | None, int]


def _linear(shape: LinearShape, rows: int, itemsize: int) -> list[Operator]:
    weights = shape.out_features * shape.in_features
    moved = rows * (shape.out_features + shape.in_features) * itemsize
    stored = shape.sparsity.stored_bytes(shape.out_features, shape.in_features, itemsize)
    flops = 2 * rows * shape.nonzeros
    if shape.sparsity.is_dense:
        found = [Operator("dense", 1, flops, stored, moved)]
    else:
        found = [Operator(shape.sparsity.pattern, 1, flops, stored, moved, 2 * rows * weights)]
    if shape.adapter_rank:  # two thin products; the sum with the main one is fused into the second
        params = shape.adapter_params
        between = 2 * rows * shape.adapter_rank * itemsize
        found.append(Operator("adapter", 2, 2 * rows * params, params * itemsize, moved + between))
    if shape.bias:
        found.append(Operator("bias", 0, rows * shape.out_features, shape.out_features * itemsize))
    return found


def _part_operators(
    part: _Part, family: Family, workload: Workload, itemsize: int
) -> list[Operator]:
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
        return [
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
    return extra + [op for shape in linears for op in _linear(shape, rows, itemsize)]


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
    architecture: Architecture, family: Family, workload: Workload, dtype: str = "float32"
) -> tuple[Operator, ...]:
    """Every operator of one forward pass.

    Args:
        architecture: the subnet.
        family: what its search space holds fixed.
        workload: decode (one token per sequence, from a KV cache) or prefill.
        dtype: of weights and activations.

    Raises:
        ValueError: if a sparsity does not divide a matrix, or the dtype is unknown.
    """
    itemsize = value_bytes(dtype)
    return tuple(
        op
        for part in _parts(architecture)
        for op in _part_operators(part, family, workload, itemsize)
    )


def _sum_over_parts(
    architectures: Sequence[Architecture],
    family: Family,
    workload: Workload,
    dtype: str,
    measure: Callable[[list[Operator]], FloatArray],
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
        [measure(_part_operators(part, family, workload, itemsize)) for part in ids]
    )
    n, p = len(architectures), len(ids)
    cells = np.asarray(rows, dtype=np.int64) * p + np.asarray(columns, dtype=np.int64)
    counts_np = np.bincount(cells, minlength=n * p).reshape(n, p).astype(np.float64)
    total: FloatArray = counts_np @ table_pf.reshape(p, -1)
    return total


def feature_names(kernels: bool = False) -> tuple[str, ...]:
    """Names of the columns of :func:`feature_matrix`: ``kind.quantity``, and ``kernels.us`` where there is a kernel table."""
    counts = tuple(f"{kind}.{quantity}" for kind in _KINDS for quantity in _QUANTITIES)
    return (*counts, KERNELS) if kernels else counts


def _features(found: list[Operator]) -> FloatArray:
    total_kq = np.zeros((len(_KINDS), len(_QUANTITIES)))
    for op in found:
        row = total_kq[_KINDS.index(op.kind)]
        row += (op.launches, op.flops, op.weight_bytes + op.activation_bytes, op.dense_flops)
    return total_kq.reshape(-1)


def feature_matrix(
    architectures: Sequence[Architecture],
    family: Family,
    workload: Workload,
    dtype: str = "float32",
    kernels: KernelTable | None = None,
) -> FloatArray:
    """Counts by kind of operator: launches, FLOPs, bytes, and FLOPs without the zeros; shape (n, f).

    With a kernel table, one more column: microseconds of the linears by :func:`surrogates.linears.linears_us`.

    Args:
        architectures: n subnets of one family.
        family: what their search space holds fixed.
        workload: decode or prefill.
        dtype: of weights and activations.
        kernels: measured products of the device.
    """
    if not architectures:
        return np.zeros((0, len(feature_names(kernels is not None))))
    counts_nf = _sum_over_parts(architectures, family, workload, dtype, _features)
    if kernels is None:
        return counts_nf
    us_n = linears_us(architectures, family, workload, dtype, kernels)
    return np.column_stack([counts_nf, us_n])


def features(
    architecture: Architecture, family: Family, workload: Workload, dtype: str = "float32"
) -> FloatArray:
    """One row of :func:`feature_matrix`, shape (f,)."""
    row_f: FloatArray = feature_matrix([architecture], family, workload, dtype)[0]
    return row_f


def latencies_ms(
    architectures: Sequence[Architecture],
    family: Family,
    spec: DeviceSpec | str,
    workload: Workload,
    dtype: str = "float32",
) -> FloatArray:
    """Roofline time of one forward pass of n architectures, in milliseconds; shape (n,).

    When all weights fit the last-level cache together, they are read at its bandwidth: a decoder runs the same weights for every token.

    Args:
        architectures: n subnets of one family.
        family: what their search space holds fixed.
        spec: a device or its name.
        workload: decode or prefill.
        dtype: of weights and activations.

    Raises:
        ValueError: if the device is unknown or has no peak for the dtype.
    """
    spec = device(spec) if isinstance(spec, str) else spec
    peak = spec.peak(dtype)
    slow = spec.bandwidth_bytes_s
    fast = max(slow, spec.cache_bandwidth_bytes_s or slow)

    def times(found: list[Operator]) -> FloatArray:
        total = np.zeros(3)  # seconds from memory, seconds from cache, bytes of weights
        for op in found:
            moved = op.weight_bytes + op.activation_bytes
            overhead = spec.op_overhead_s * op.launches
            total += (
                overhead + max(op.flops / peak, moved / slow),
                overhead + max(op.flops / peak, moved / fast),
                op.weight_bytes,
            )
        return total

    if not architectures:
        return np.zeros(0)
    total_n3 = _sum_over_parts(architectures, family, workload, dtype, times)
    fits_n = total_n3[:, 2] <= (spec.cache_bytes or 0)
    return 1e3 * np.where(fits_n, total_n3[:, 1], total_n3[:, 0])


def latency_ms(
    architecture: Architecture,
    family: Family,
    spec: DeviceSpec | str,
    workload: Workload,
    dtype: str = "float32",
) -> float:
    """Roofline time of one forward pass in milliseconds; see :func:`latencies_ms`."""
    return float(latencies_ms([architecture], family, spec, workload, dtype)[0])
