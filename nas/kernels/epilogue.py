"""Epilogue: what follows the sparse product of a layer, as a value and as plain torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


@dataclass(slots=True, eq=False)  # made at every call, where frozen fields would take a microsecond
class Epilogue:
    """``act(y + bias) * silu(gate) + B (A x)``, or with the adapter inside the activation.

    Args:
        bias: ``[M]``.
        activation: a name of :data:`ACTIVATIONS`.
        adapter: A ``[r, K]`` and B ``[M, r]``.
        adapter_first: add the adapter before the activation, as a layer whose weight is ``W + B A`` does.
        gate: ``[N, M]``, the gate of SwiGLU before its own activation.
    """

    bias: Tensor | None = None
    activation: str | None = None
    adapter: tuple[Tensor, Tensor] | None = None
    adapter_first: bool = False
    gate: Tensor | None = None

    def __call__(self, y_NM: Tensor, x_NK: Tensor) -> Tensor:
        """Apply to a product ``[N, M]`` of an input ``[N, K]``."""
        if self.bias is not None:
            y_NM = y_NM + self.bias
        if self.adapter is None:
            return self._activated(y_NM)
        low_rank = F.linear(F.linear(x_NK, self.adapter[0]), self.adapter[1])
        if self.adapter_first:
            return self._activated(y_NM + low_rank)
        return self._activated(y_NM) + low_rank

    def contiguous(self) -> Epilogue:
        """The same with its tensors as kernels read them."""
        adapter = self.adapter and (self.adapter[0].contiguous(), self.adapter[1].contiguous())
        bias = None if self.bias is None else self.bias.contiguous()
        gate = None if self.gate is None else self.gate.contiguous()
        return Epilogue(bias, self.activation, adapter, self.adapter_first, gate)

    def rows(self, first: int, number: int) -> Epilogue:
        """The same of some rows of the output: a gate is cut."""
        gate = None if self.gate is None else self.gate[first : first + number]
        return Epilogue(self.bias, self.activation, self.adapter, self.adapter_first, gate)

    def _activated(self, y_NM: Tensor) -> Tensor:
        if self.activation is not None:
            y_NM = ACTIVATIONS[self.activation](y_NM)
        return y_NM if self.gate is None else y_NM * F.silu(self.gate)
