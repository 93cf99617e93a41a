"""Microseconds of an architecture's linears by a kernel table: the one feature that knows where a kernel is fast and where it is not.

Counts of FLOPs and bytes cannot say that a pattern is cheap only above some width, or that a level is read by another path; the
measured products can.

n architectures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search_spaces import Architecture, Family, LayerConfig, LinearShape, Workload, fused_linears
from search_spaces.formats import default_format
from surrogates.base import FloatArray
from surrogates.devices import value_bytes
from surrogates.kernel_table import KernelTable


def linears_us(
    architectures: Sequence[Architecture],
    family: Family,
    workload: Workload,
    dtype: str,
    kernels: KernelTable,
) -> FloatArray:
    """Microseconds of all linears of the layers in one forward pass, shape (n,).

    All zero where the table has no dense products of this dtype with about as many tokens: a column known for some architectures
    only would call the others fast. A pattern that was not measured is taken for the dense product, which any weight can be rebuilt to.

    Args:
        architectures: n subnets of one family.
        family: what their search space holds fixed.
        workload: decode or prefill.
        dtype: of weights and activations.
        kernels: measured products.

    Raises:
        ValueError: if the workload is training.
    """
    workload.check_inference()
    tokens, itemsize = workload.num_tokens, value_bytes(dtype)
    total_n = np.zeros(len(architectures))
    if not kernels.has_tokens(dtype, tokens):
        return total_n

    def linear_us(shape: LinearShape) -> float:
        size, sparsity = (shape.out_features, shape.in_features), shape.sparsity
        stored = default_format(sparsity, itemsize)
        us = kernels.product_us(dtype, size, tokens, str(sparsity), stored)
        if us is None:
            us = kernels.product_us(dtype, size, tokens, "dense", "dense")
        assert us is not None  # dense products were measured
        return us

    by_layer: dict[tuple[LayerConfig, int, bool], float] = {}
    for row, architecture in enumerate(architectures):
        for layer in architecture.layers:
            key = (layer, architecture.embed_dim, architecture.bias)
            if key not in by_layer:
                by_layer[key] = sum(linear_us(shape) for shape in fused_linears(*key, family))
            total_n[row] += by_layer[key]
    return total_n
