"""The sparse product as a torch operator, so that ``torch.compile``, ``torch.export`` and autograd see one node.

``sparse_gpt_nas::sparse_linear`` takes the stored tensors of a packed weight as a list. Its gradients: for the input, exact for every
format, ``dy W`` with the dense weight rebuilt (training has many tokens, where that costs little); for the values of N:M and column
vectors, the products of their own positions only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, library

from nas.kernels.dispatch import choose, run_triton
from nas.kernels.epilogue import Epilogue
from nas.kernels.formats import PackedWeight, from_checked
from nas.kernels.paths import run_path

NAME = "sparse_gpt_nas::sparse_linear"


@library.custom_op(NAME, mutates_args=())
def sparse_linear_op(
    x: Tensor,
    stored: Sequence[Tensor],
    hints: Sequence[int],
    sparsity: str,
    format: str,
    num_rows: int,
    num_columns: int,
    bias: Tensor | None,
    activation: str | None,
    a: Tensor | None,
    b: Tensor | None,
    adapter_first: bool,
    gate: Tensor | None,
) -> Tensor:
    """``[N, M]`` of ``x [N, K]``; see :func:`nas.kernels.sparse_linear`."""
    packed = from_checked(sparsity, format, (num_rows, num_columns), stored, hints)
    adapter = None if a is None or b is None else (a, b)
    # An exported program meets autocast here, where it has no layer before it.
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(stored[0].dtype)
        gate = None if gate is None else gate.to(stored[0].dtype)
        return product(packed, x, Epilogue(bias, activation, adapter, adapter_first, gate))


def product(packed: PackedWeight, x_NK: Tensor, epilogue: Epilogue) -> Tensor:
    """``[N, M]`` by the path that dispatch chooses."""
    num_tokens = x_NK.shape[0]
    if num_tokens == 0:
        return x_NK.new_empty(0, packed.shape[0])
    choice = choose(packed, num_tokens)
    if choice.path == "triton":
        return run_triton(packed, x_NK, epilogue, choice.config)
    return run_path(choice.path, packed, x_NK, epilogue)


@sparse_linear_op.register_fake
def _(
    x: Tensor,
    stored: Sequence[Tensor],
    hints: Sequence[int],
    sparsity: str,
    format: str,
    num_rows: int,
    *_: Any,
) -> Tensor:
    return stored[0].new_empty(x.shape[0], num_rows)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, stored, _, sparsity, format, num_rows, num_columns, *rest = inputs
    if any(part is not None for part in (*rest[:4], rest[5])):
        raise ValueError(
            "expected no gradient through a fused bias, activation, gate or adapter (as in an exported layer); "
            "call it under torch.no_grad(), or train with nas.kernels.sparse_linear itself"
        )
    ctx.save_for_backward(x, *stored)
    ctx.description = sparsity, format, (num_rows, num_columns)


@library.custom_op(f"{NAME}_input_gradient", mutates_args=())
def input_gradient(
    grad: Tensor,
    stored: Sequence[Tensor],
    sparsity: str,
    format: str,
    num_rows: int,
    num_columns: int,
) -> Tensor:
    """``[N, K]``: ``dy W``."""
    packed = from_checked(sparsity, format, (num_rows, num_columns), stored)
    with torch.autocast(grad.device.type, enabled=False):  # a backward pass inside of it, too
        return grad @ packed.unpack()


@input_gradient.register_fake
def _(
    grad: Tensor, stored: Sequence[Tensor], sparsity: str, format: str, rows: int, columns: int
) -> Tensor:
    return grad.new_empty(grad.shape[0], columns)


@library.custom_op(f"{NAME}_values_gradient", mutates_args=())
def values_gradient(
    grad: Tensor,
    x: Tensor,
    stored: Sequence[Tensor],
    sparsity: str,
    format: str,
    num_rows: int,
    num_columns: int,
) -> Tensor:
    """Gradient of the stored values, in their shape; see :meth:`PackedWeight.values_gradient`."""
    packed = from_checked(sparsity, format, (num_rows, num_columns), stored)
    with torch.autocast(grad.device.type, enabled=False):
        return packed.values_gradient(grad, x).contiguous()


@values_gradient.register_fake
def _(grad: Tensor, x: Tensor, stored: Sequence[Tensor], *_: Any) -> Tensor:
    return torch.empty_like(stored[0], memory_format=torch.contiguous_format)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, *stored = ctx.saved_tensors
    sparsity, format, (num_rows, num_columns) = ctx.description
    description = (sparsity, format, num_rows, num_columns)
    grad_x = input_gradient(grad, stored, *description) if ctx.needs_input_grad[0] else None
    grads: list[Tensor | None] = [None] * len(stored)
    needs = ctx.needs_input_grad[1]
    if any(needs) if isinstance(needs, list | tuple) else needs:
        grads[0] = values_gradient(grad, x, stored, *description)
    return (grad_x, grads, *[None] * 11)


library.register_autograd(NAME, _backward, setup_context=_save)
