"""Roofline: the time of operators on a device (Williams et al. 2009, CACM 52(4)), and their counts as features.

An operator takes ``overhead x launches + max(flops / peak, bytes / bandwidth)`` seconds; a forward pass or a training step is their
sum. On a GPU that the project's kernels run on, a sparse product's FLOPs are those they execute, and it takes at least
``instructions / instruction rate`` (:mod:`surrogates.decode_cost`).

The counts by kind of operator are what learned surrogates start from (:func:`feature_matrix`): they mean the same on every device,
space and workload.

n architectures, f features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search_spaces import Architecture, Family, Workload
from search_spaces.costs import WeightGradient, check_weight_gradient
from surrogates.base import FloatArray
from surrogates.devices import DeviceSpec, device
from surrogates.kernel_table import KernelTable
from surrogates.linears import linears_us
from surrogates.operators import KINDS, Operator, sum_over_parts

KERNELS = "kernels.us"
_QUANTITIES = ("launches", "flops", "bytes", "dense_flops")


def feature_names(kernels: bool = False) -> tuple[str, ...]:
    """Names of the columns of :func:`feature_matrix`: ``kind.quantity``, and ``kernels.us`` where there is a kernel table."""
    counts = tuple(f"{kind}.{quantity}" for kind in KINDS for quantity in _QUANTITIES)
    return (*counts, KERNELS) if kernels else counts


def _features(found: list[Operator]) -> FloatArray:
    total_kq = np.zeros((len(KINDS), len(_QUANTITIES)))
    for op in found:
        row = total_kq[KINDS.index(op.kind)]
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

    Raises:
        ValueError: if the workload is training, which no measurement is of.
    """
    workload.check_inference()
    if not architectures:
        return np.zeros((0, len(feature_names(kernels is not None))))
    counts_nf = sum_over_parts(architectures, family, workload, dtype, _features)
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


def compute_s(op: Operator, spec: DeviceSpec, peak: float, issue_share: float = 1.0) -> float:
    """Seconds of an operator's arithmetic alone.

    Args:
        op: the operator.
        spec: where.
        peak: FLOP/s that it reaches there.
        issue_share: of the instruction slots that a kernel fills.
    """
    if spec.instructions_s is None or not op.executed_flops:
        return op.flops / peak
    return max(op.executed_flops / peak, op.instructions / (issue_share * spec.instructions_s))


def latencies_ms(
    architectures: Sequence[Architecture],
    family: Family,
    spec: DeviceSpec | str,
    workload: Workload,
    dtype: str = "float32",
    weight_gradient: WeightGradient = "sparse",
) -> FloatArray:
    """Roofline time of one forward pass or training step of n architectures, in milliseconds; shape (n,).

    Where a device knows what its sparse products cost beside their bytes (``DeviceSpec.sparse_s``), that is added.
    When all weights fit the last-level cache together, they are read at its bandwidth: a decoder runs the same weights for every token.

    Args:
        architectures: n subnets of one family.
        family: what their search space holds fixed.
        spec: a device or its name.
        workload: decode, prefill or training.
        dtype: of weights and activations.
        weight_gradient: of sparse weights in training: ``sparse`` or ``dense``.

    Raises:
        ValueError: if the device or the weight gradient is unknown, or the device has no peak for the dtype.
    """
    check_weight_gradient(weight_gradient)
    spec = device(spec) if isinstance(spec, str) else spec
    peak = spec.peak(dtype)
    slow = spec.bandwidth_bytes_s
    fast = max(slow, spec.cache_bandwidth_bytes_s or slow)

    def times(found: list[Operator]) -> FloatArray:
        total = np.zeros(3)  # seconds from memory, seconds from cache, bytes of weights
        for op in found:
            moved = op.weight_bytes + op.activation_bytes
            overhead = spec.op_overhead_s * op.launches
            if op.dense_flops:
                overhead += spec.sparse_seconds(op.kind, op.dense_flops / (2 * workload.num_tokens))
            compute = compute_s(op, spec, peak)
            total += (
                overhead + max(compute, moved / slow),
                overhead + max(compute, moved / fast),
                op.weight_bytes,
            )
        return total

    if not architectures:
        return np.zeros(0)
    total_n3 = sum_over_parts(architectures, family, workload, dtype, times, weight_gradient)
    fits_n = total_n3[:, 2] <= (spec.cache_bytes or 0)
    return 1e3 * np.where(fits_n, total_n3[:, 1], total_n3[:, 0])


def latency_ms(
    architecture: Architecture,
    family: Family,
    spec: DeviceSpec | str,
    workload: Workload,
    dtype: str = "float32",
    weight_gradient: WeightGradient = "sparse",
) -> float:
    """Roofline time of one forward pass or training step in milliseconds; see :func:`latencies_ms`."""
    return float(latencies_ms([architecture], family, spec, workload, dtype, weight_gradient)[0])
