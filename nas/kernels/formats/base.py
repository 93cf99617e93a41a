"""PackedWeight: a weight matrix in the form it is stored in, and what every format must be able to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from search_spaces import Sparsity

# Up to this many rows of input a sparse product on the CPU beats building the dense weight (`make bench` measures it).
MAX_SPARSE_ROWS = 4


class PackedWeightError(ValueError):
    """Stored tensors do not form a weight of this format."""


class PackedWeight(nn.Module, ABC):
    """A matrix ``[M, K]`` (out, in features) whose zeros are not stored.

    Subclasses keep their tensors as buffers, so that ``.to()`` and safetensors see them, and are
    built by :meth:`pack`.

    Args:
        sparsity: pattern and level.
        shape: ``(M, K)``.
        tensors: the buffers, by name; checked by :meth:`check`.

    Raises:
        PackedWeightError: if the tensors contradict the shape or the sparsity.
    """

    names: ClassVar[tuple[str, ...]]

    def __init__(
        self, sparsity: Sparsity, shape: tuple[int, int], tensors: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        self.sparsity = sparsity
        self.shape = shape
        sparsity.check_shape(*shape)
        if set(tensors) != set(self.names):
            raise PackedWeightError(
                f"expected the tensors {self.names} for {sparsity}, got {sorted(tensors)}"
            )
        for name in self.names:
            self.register_buffer(name, tensors[name].contiguous())
        self.check()

    @classmethod
    @abstractmethod
    def pack(cls, weight: Tensor, sparsity: Sparsity, mask: Tensor) -> Self:
        """Store the kept entries of a weight.

        Args:
            weight: ``[M, K]``.
            sparsity: pattern and level; says exactly how many entries are kept.
            mask: bool ``[M, K]``, True where kept; must have the pattern.
        """

    @abstractmethod
    def unpack(self) -> Tensor:
        """The dense matrix ``[M, K]``, equal bit by bit to what was packed, zeros elsewhere."""

    @abstractmethod
    def check(self) -> None:
        """Refuse tensors of wrong shape or dtype, and indices out of range or order.

        Raises:
            PackedWeightError: naming the tensor, expected and got.
        """

    def multiply(self, x_NK: Tensor) -> Tensor:
        """``x W^T``: ``[N, K]`` to ``[N, M]``; by default through the dense weight."""
        return nn.functional.linear(x_NK, self.unpack())

    @property
    def stored_bytes(self) -> int:
        """Bytes of the stored tensors; equal to ``sparsity.stored_bytes(M, K, value_bytes)``."""
        return sum(t.numel() * t.element_size() for t in self.tensors().values())

    @property
    def nonzeros(self) -> int:
        """Stored weights."""
        return self.sparsity.nonzeros(*self.shape)

    def tensors(self) -> dict[str, Tensor]:
        """The stored tensors by name."""
        return {name: getattr(self, name) for name in self.names}

    def extra_repr(self) -> str:
        return f"{self.sparsity}, {self.shape[0]} x {self.shape[1]}"

    def _expect(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None
    ) -> Tensor:
        tensor: Tensor = getattr(self, name)
        if tuple(tensor.shape) != shape:
            raise PackedWeightError(
                f"expected {name} of shape {shape} for {self.sparsity} {self.shape}, got {tuple(tensor.shape)}"
            )
        if dtype is None and not tensor.is_floating_point():
            raise PackedWeightError(f"expected floating-point {name}, got {tensor.dtype}")
        if dtype is not None and tensor.dtype != dtype:
            raise PackedWeightError(f"expected {name} of {dtype}, got {tensor.dtype}")
        return tensor

    def _expect_indices(self, name: str, shape: tuple[int, ...], bound: int) -> Tensor:
        indices = self._expect(name, shape, torch.int32)
        if indices.numel() and not (int(indices.min()) >= 0 and int(indices.max()) < bound):
            raise PackedWeightError(
                f"expected {name} in [0, {bound}), got {int(indices.min())} to {int(indices.max())}; the file is damaged"
            )
        return indices


def check_mask(weight: Tensor, sparsity: Sparsity, mask: Tensor) -> None:
    """Refuse a mask of the wrong shape, dtype or count.

    Raises:
        PackedWeightError: naming expected and got.
    """
    if weight.ndim != 2 or not weight.is_floating_point():
        raise PackedWeightError(
            f"expected a floating-point matrix, got {weight.dtype} {tuple(weight.shape)}"
        )
    if mask.shape != weight.shape or mask.dtype != torch.bool:
        raise PackedWeightError(
            f"expected a bool mask of shape {tuple(weight.shape)}, got {mask.dtype} {tuple(mask.shape)}"
        )
    expected = sparsity.nonzeros(weight.shape[0], weight.shape[1])
    if int(mask.sum()) != expected:
        raise PackedWeightError(
            f"expected a mask that keeps {expected} weights for {sparsity}, got {int(mask.sum())}; make it with magnitude_mask"
        )
