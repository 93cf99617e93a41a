"""Sparse-to-dense training (S2D, 2304.05511): most steps sparse, the last ones dense, and what that gains from end to end.

With R the time of a dense step over that of a sparse one on the device, r the time of a dense step on the reference (a dense A100) over
that on the device, and f the fraction of steps that are dense,

    speed-up = 1 / ((1 - f) / (r R) + f / r).
"""

from __future__ import annotations

import math

from search_spaces import Architecture, Family, training_flops
from search_spaces.costs import WeightGradient


def s2d_speedup(dense_fraction: float, sparse_ratio: float, device_ratio: float = 1.0) -> float:
    """Speed-up of sparse-to-dense training over dense training on a reference.

    Args:
        dense_fraction: f, share of the steps (of equal size) that are dense, in [0, 1].
        sparse_ratio: R, dense step over sparse step on the device.
        device_ratio: r, dense step on the reference over dense step on the device.

    Raises:
        ValueError: if a figure is outside its domain.
    """
    if not 0.0 <= dense_fraction <= 1.0:
        raise ValueError(f"expected dense_fraction in [0, 1], got {dense_fraction!r}")
    for name, value in (("sparse_ratio", sparse_ratio), ("device_ratio", device_ratio)):
        if not value > 0 or not math.isfinite(value):
            raise ValueError(f"expected {name} above 0 and finite, got {value!r}")
    return device_ratio / ((1.0 - dense_fraction) / sparse_ratio + dense_fraction)


def dense_fraction_for(speedup: float, sparse_ratio: float, device_ratio: float = 1.0) -> float:
    """The dense fraction at which sparse-to-dense training gains so much: the inverse of :func:`s2d_speedup`.

    Raises:
        ValueError: if no fraction in [0, 1] does; the band that can be reached is named.
    """
    ends = sorted(s2d_speedup(f, sparse_ratio, device_ratio) for f in (0.0, 1.0))
    if sparse_ratio == 1.0 or not ends[0] <= speedup <= ends[1]:
        raise ValueError(
            f"expected a speed-up between {ends[0]:.4g} and {ends[1]:.4g}, got {speedup!r}"
        )
    return (device_ratio / speedup - 1.0 / sparse_ratio) / (1.0 - 1.0 / sparse_ratio)


def flop_ratio(
    dense: Architecture,
    sparse: Architecture,
    family: Family,
    context: int,
    *,
    weight_gradient: WeightGradient = "sparse",
    causal: bool = False,
) -> float:
    """Training FLOPs of a dense architecture over those of a sparse one.

    Args:
        dense: without zeros.
        sparse: its sparse twin.
        family: of both.
        context: tokens of a sequence.
        weight_gradient: of sparse weights.
        causal: count the pairs that a causal mask leaves; the published ratios count all.
    """
    cost = [
        training_flops(a, family, context, weight_gradient=weight_gradient, causal=causal)
        for a in (dense, sparse)
    ]
    return cost[0] / cost[1]
