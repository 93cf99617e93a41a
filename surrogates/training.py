"""Training: what the backward pass and the optimizer add to an operator of the forward pass.

Every product has two in the backward pass: the gradient of its input (``dX = dY W``) and of its weight (``dW = dY^T X``). With a
sparse weight, dX has the forward pass's FLOPs and bytes; dW either too (``sparse``: only kept weights, SPDF 2303.10464 and S2D
2304.05511), or those of a dense product (``dense``: SLoPe 2405.16325, which prunes dW afterwards).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from search_spaces.costs import WeightGradient

if TYPE_CHECKING:
    from surrogates.operators import Operator

MOMENT_BYTES = 4  # AdamW's two moments stay in float32 (SLoPe, sec. 4.4.1: 2 x 32 bits beside 16-bit weights and gradients)


def backward_operators(
    op: Operator, rows: int, itemsize: int, weight_gradient: WeightGradient
) -> list[Operator]:
    """Operators of the backward pass that belong to one of the forward pass.

    Args:
        op: of the forward pass.
        rows: tokens that pass through it.
        itemsize: bytes of a value.
        weight_gradient: of sparse weights.
    """
    moved = op.activation_bytes
    if op.kind == "forward":
        return []
    if (
        op.kind == "elementwise"
    ):  # the input and the output's gradient are read, the input's gradient written
        return [replace(op, weight_bytes=2 * op.weight_bytes, activation_bytes=moved * 3 // 2)]
    if op.kind == "bias":  # a sum over tokens
        return [replace(op, launches=1, activation_bytes=op.flops * itemsize)]
    if op.kind in ("attention", "adapter"):  # two gradients for each product
        return [
            replace(
                op,
                launches=op.launches * (2 if op.kind == "adapter" else 1),
                flops=2 * op.flops,
                weight_bytes=2 * op.weight_bytes,
                activation_bytes=2 * moved,
            )
        ]
    if not op.dense_flops:
        return [op, op]
    # No kernel of the project computes dW of kept weights alone, so no instructions were counted for it.
    of_weight = replace(op, instructions=0)
    if weight_gradient == "dense":
        weights = op.dense_flops // (2 * rows)
        of_weight = replace(
            of_weight,
            kind="dense",
            flops=op.dense_flops,
            weight_bytes=weights * itemsize,
            dense_flops=0,
            executed_flops=0,
        )
    return [op, of_weight]


def update_bytes(numbers: int, itemsize: int) -> int:
    """Bytes that AdamW moves for so many kept numbers: weight, gradient and two moments read, weight and moments written."""
    return numbers * (3 * itemsize + 4 * MOMENT_BYTES)
