"""The one door to a sparse product: ``y = act(W x + b) [+ B (A x)]``."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from nas.kernels.epilogue import ACTIVATIONS, Epilogue
from nas.kernels.formats import PackedWeight
from nas.kernels.operator import product, sparse_linear_op
from nas.kernels.paths import paths, run_path


def sparse_linear(
    x: Tensor,
    weight: PackedWeight,
    bias: Tensor | None = None,
    activation: str | None = None,
    adapter: tuple[Tensor, Tensor] | None = None,
    *,
    adapter_first: bool = False,
    gate: Tensor | None = None,
    path: str | None = None,
) -> Tensor:
    """Multiply with a packed weight, by the path that was fastest where it was measured.

    ``act(W x + b) * silu(gate) + B (A x)``; with ``adapter_first``, ``act(W x + b + B (A x)) * silu(gate)``. A GPU kernel does
    everything after ``W x`` on the accumulator; elsewhere, and where a gradient is wanted, torch does it. Under autocast the product
    keeps the weight's dtype, by every path, and ``x`` and ``gate`` are converted to it: a packed weight is not cast. (A backward pass
    that is itself under autocast reduces the gradients of bias and adapter, as torch does.)

    Args:
        x: ``[..., K]``, same dtype and device as the weight; gradients flow to it and, for N:M and column vectors, to the values.
        weight: ``[M, K]`` packed.
        bias: ``[M]``.
        activation: ``relu``, ``silu``, ``gelu`` or ``gelu_tanh``.
        adapter: A ``[r, K]`` and B ``[M, r]`` of a low-rank adapter (SLoPe, 2405.16325).
        adapter_first: add the adapter before the activation: the layer's weight is then ``W + B A``.
        gate: ``[..., M]``, the gate of SwiGLU before its activation.
        path: force one of :func:`nas.kernels.paths`; dispatch chooses by default.

    Returns:
        ``[..., M]``.

    Raises:
        ValueError: if a shape, dtype, device or name does not fit.
    """
    if _is_autocast(weight):
        with torch.autocast(weight.kind[1].type, enabled=False):
            x, gate = _converted(x, weight), _converted(gate, weight)
            return sparse_linear(
                x, weight, bias, activation, adapter,
                adapter_first=adapter_first, gate=gate, path=path,
            )  # fmt: skip
    _check_tensor("x", x)
    _check(x, weight, bias, activation, adapter, gate)
    return _linear(x, weight, bias, activation, adapter, adapter_first, gate, path)


def _linear(
    x: Tensor,
    weight: PackedWeight,
    bias: Tensor | None,
    activation: str | None,
    adapter: tuple[Tensor, Tensor] | None,
    adapter_first: bool,
    gate: Tensor | None,
    path: str | None = None,
) -> Tensor:
    """:func:`sparse_linear` of what is known to fit."""
    rows, columns = weight.shape
    x_NK = x.reshape(-1, columns).contiguous()
    gate_NM = None if gate is None else gate.reshape(-1, rows).contiguous()
    epilogue = Epilogue(bias, activation, adapter, adapter_first, gate_NM)
    if path is not None:
        if torch.is_grad_enabled() and _wants_gradient(x, weight, bias, adapter, gate):
            raise ValueError(
                "expected no gradient of a forced path, got tensors that want one; leave path=None or use torch.no_grad()"
            )
        if path not in (known := paths(weight, x_NK.shape[0])):
            raise ValueError(f"expected one of the paths {known} for {weight}, got {path!r}")
        y = run_path(path, weight, x_NK, epilogue) if len(x_NK) else product(weight, x_NK, epilogue)
    elif torch.is_grad_enabled() and _wants_gradient(x, weight, bias, adapter, gate):
        y = epilogue(_operator(x_NK, weight, Epilogue()), x_NK)
    elif torch.compiler.is_compiling():
        y = _operator(x_NK, weight, epilogue)
    else:  # the operator's own call costs as much as a small product
        y = product(weight, x_NK, epilogue)
    return y.reshape(*x.shape[:-1], rows)


def _operator(x_NK: Tensor, weight: PackedWeight, epilogue: Epilogue) -> Tensor:
    a, b = epilogue.adapter or (None, None)
    # An exported program may load other weights later: what holds for these would be baked in.
    hints = [0] if torch.compiler.is_exporting() else list(weight.hints)
    y: Tensor = sparse_linear_op(
        x_NK, list(weight.tensors().values()), hints, weight.text, weight.format, *weight.shape,
        epilogue.bias, epilogue.activation, a, b, epilogue.adapter_first, epilogue.gate,
    )  # fmt: skip
    return y


_OptionalTensor = TypeVar("_OptionalTensor", Tensor, Tensor | None)


def _is_autocast(weight: PackedWeight) -> bool:
    if not isinstance(weight, PackedWeight):  # refused later
        return False
    device = weight.kind[1].type
    return device in ("cpu", "cuda") and torch.is_autocast_enabled(device)


def _converted(tensor: _OptionalTensor, weight: PackedWeight) -> _OptionalTensor:
    """Numbers in the weight's dtype; anything else is refused later."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        return tensor
    return tensor.to(weight.kind[0])


def _wants_gradient(
    x: Tensor,
    weight: PackedWeight,
    bias: Tensor | None,
    adapter: tuple[Tensor, ...] | None,
    gate: Tensor | None,
) -> bool:
    found = (x, *weight.tensors().values(), bias, gate, *(adapter or ()))
    return any(tensor is not None and tensor.requires_grad for tensor in found)


def _check(
    x: Tensor | None,
    weight: PackedWeight,
    bias: Tensor | None,
    activation: str | None,
    adapter: tuple[Tensor, Tensor] | None,
    gate: Tensor | None,
) -> None:
    if not isinstance(weight, PackedWeight):
        raise ValueError(
            f"expected a packed weight, got {type(weight).__name__}; make it with nas.kernels.pack"
        )
    rows, columns = weight.shape
    kind = weight.kind
    if x is not None:
        _check_tensor("x", x)
        if x.ndim < 1 or x.shape[-1] != columns:
            raise ValueError(f"expected x of {columns} features, got shape {tuple(x.shape)}")
        _check_like("x", x, kind)
    if bias is not None:
        _check_like("bias", bias, kind, (rows,))
    if gate is not None and x is not None:
        _check_like("gate", gate, kind, (*x.shape[:-1], rows))
    if adapter is not None:
        if len(adapter) != 2 or not all(isinstance(part, Tensor) for part in adapter):
            raise ValueError("expected an adapter of two tensors, A [r, K] and B [M, r]")
        rank = len(adapter[0]) if adapter[0].ndim else 0
        _check_like("adapter A", adapter[0], kind, (rank, columns))
        _check_like("adapter B", adapter[1], kind, (rows, rank))
    if activation is not None and activation not in ACTIVATIONS:
        raise ValueError(f"expected an activation of {tuple(ACTIVATIONS)}, got {activation!r}")


def _check_tensor(name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"expected {name} as a tensor, got {type(tensor).__name__}")


def _check_like(
    name: str,
    tensor: Tensor,
    kind: tuple[torch.dtype, torch.device],
    shape: tuple[int, ...] | None = None,
) -> None:
    _check_tensor(name, tensor)
    if shape is not None and tensor.shape != shape:
        raise ValueError(f"expected {name} of shape {shape}, got {tuple(tensor.shape)}")
    if tensor.dtype != kind[0]:
        raise ValueError(
            f"expected {name} in the weight's {kind[0]}, got {tensor.dtype}; convert one of them"
        )
    if tensor.device != kind[1]:
        raise ValueError(
            f"expected {name} on the weight's {kind[1]}, got {tensor.device}; move one of them"
        )


class SparseLinear(nn.Module):
    """A linear layer over a packed weight.

    Args:
        weight: ``[M, K]`` packed.
        bias: ``[M]``.
        adapter: A ``[r, K]`` and B ``[M, r]``; the layer's weight is then ``W + B A``.
    """

    def __init__(
        self,
        weight: PackedWeight,
        bias: Tensor | None = None,
        adapter: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        # Now, not at every call: one linear of a small model takes about as long as these checks
        _check(None, weight, bias, None, adapter, None)
        self.weight = weight
        self.bias: Tensor | None
        self.adapter_a: Tensor | None
        self.adapter_b: Tensor | None
        self.register_buffer("bias", bias)
        self.register_buffer("adapter_a", None if adapter is None else adapter[0].contiguous())
        self.register_buffer("adapter_b", None if adapter is None else adapter[1].contiguous())

    def forward(
        self, x: Tensor, activation: str | None = None, gate: Tensor | None = None
    ) -> Tensor:
        """``[..., M]``; ``activation`` and ``gate`` as :func:`sparse_linear` takes them."""
        weight: PackedWeight = self.weight
        if _is_autocast(weight):
            with torch.autocast(weight.kind[1].type, enabled=False):
                return self.forward(_converted(x, weight), activation, _converted(gate, weight))
        _check_tensor("x", x)
        is_plain = x.shape[-1:] == weight.shape[1:] and (x.dtype, x.device) == weight.kind
        if not is_plain or activation is not None or gate is not None:
            _check(x, weight, None, activation, None, gate)
        a, b = self.adapter_a, self.adapter_b
        adapter = None if a is None or b is None else (a, b)
        return _linear(x, weight, self.bias, activation, adapter, True, gate)
