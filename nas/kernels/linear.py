"""The one door to a sparse product: ``y = W x (+ b) (+ B A x)``."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nas.kernels.formats import PackedWeight


def sparse_linear(
    x: Tensor,
    weight: PackedWeight,
    bias: Tensor | None = None,
    adapter: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Multiply with a packed weight, by the fastest path its format has on the device.

    Args:
        x: ``[..., K]``, same dtype and device as the weight.
        weight: ``[M, K]`` packed.
        bias: ``[M]``.
        adapter: A ``[r, K]`` and B ``[M, r]`` of a low-rank adapter (SLoPe, 2405.16325).

    Returns:
        ``[..., M]``.

    Raises:
        ValueError: if the last dimension of ``x`` is not K.
    """
    if x.shape[-1] != weight.shape[1]:
        raise ValueError(f"expected x of {weight.shape[1]} features, got shape {tuple(x.shape)}")
    y = weight.multiply(x.reshape(-1, weight.shape[1])).reshape(*x.shape[:-1], weight.shape[0])
    if bias is not None:
        y = y + bias
    if adapter is not None:
        y = y + F.linear(F.linear(x, adapter[0]), adapter[1])
    return y


class SparseLinear(nn.Module):
    """A linear layer over a packed weight.

    Args:
        weight: ``[M, K]`` packed.
        bias: ``[M]``.
        adapter: A ``[r, K]`` and B ``[M, r]``.
    """

    def __init__(
        self,
        weight: PackedWeight,
        bias: Tensor | None = None,
        adapter: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.bias: Tensor | None
        self.adapter_a: Tensor | None
        self.adapter_b: Tensor | None
        self.register_buffer("bias", bias)
        self.register_buffer("adapter_a", None if adapter is None else adapter[0].contiguous())
        self.register_buffer("adapter_b", None if adapter is None else adapter[1].contiguous())

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.adapter_a, self.adapter_b
        adapter = None if a is None or b is None else (a, b)
        return sparse_linear(x, self.weight, self.bias, adapter)
