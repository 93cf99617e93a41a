"""Dense: every weight stored (pattern ``dense``), so that code over formats needs no special case."""

from __future__ import annotations

from typing import Self

from torch import Tensor

from nas.kernels.formats.base import PackedWeight
from search_spaces import Sparsity


class DenseWeight(PackedWeight):
    """``values [M, K]``."""

    format = "dense"
    names = ("values",)
    values: Tensor

    @classmethod
    def pack(cls, weight: Tensor, sparsity: Sparsity, mask: Tensor) -> Self:
        return cls(sparsity, (weight.shape[0], weight.shape[1]), {"values": weight.clone()})

    def unpack(self) -> Tensor:
        return self.values

    def check(self) -> None:
        self._expect("values", self.shape)
