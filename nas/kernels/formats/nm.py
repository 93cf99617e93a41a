"""N:M: N weights kept in every M consecutive columns, and a few bits that say where (pattern ``n:m``).

The kept weights lie slot by slot, so that a slot of neighbouring groups is read in one piece. On the CPU the product rebuilds the
dense weight: N:M saves memory there, not time.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from nas.kernels.chunks import row_chunks
from nas.kernels.formats.base import PackedWeight
from nas.kernels.formats.nm_metadata import check_metadata, encode, positions, prepare
from search_spaces import Sparsity
from search_spaces.formats import nm_words


class NmWeight(PackedWeight):
    """``values [M, n, K/m]`` (row, slot, group; slots in ascending columns) and ``metadata [M, W]``, int32.

    The bits are laid out in :mod:`nas.kernels.formats.nm_metadata`.
    """

    format = "nm"
    names = ("values", "metadata")
    values: Tensor
    metadata: Tensor

    @classmethod
    def pack(cls, weight: Tensor, sparsity: Sparsity, mask: Tensor) -> Self:
        """Keep the entries of the mask."""
        rows, columns = weight.shape
        groups = columns // sparsity.m
        values = weight.new_empty(rows, sparsity.n, groups)
        metadata = torch.empty(
            rows, nm_words(sparsity, columns), dtype=torch.int32, device=weight.device
        )
        for chunk in row_chunks(rows, columns):
            metadata[chunk] = encode(mask[chunk], sparsity)
            index = positions(metadata[chunk], sparsity, groups)
            grouped = weight[chunk].reshape(-1, groups, sparsity.m)
            values[chunk] = grouped.gather(2, index).transpose(1, 2)
        return cls(sparsity, (rows, columns), {"values": values, "metadata": metadata})

    def unpack(self) -> Tensor:
        """The dense matrix."""
        groups = self.values.shape[2]
        dense = self.values.new_zeros(self.shape[0], groups, self.sparsity.m)
        for chunk in row_chunks(*self.shape):
            index = positions(self.metadata[chunk], self.sparsity, groups)
            dense[chunk].scatter_(2, index, self.values[chunk].transpose(1, 2))
        return dense.view(self.shape)

    def _settle(self) -> None:
        super()._settle()
        if not self.values.is_meta:
            prepare(self.sparsity, self.values.device)

    def check(self) -> None:
        """Refuse damaged tensors."""
        rows, columns = self.shape
        groups = columns // self.sparsity.m
        self._expect("values", (rows, self.sparsity.n, groups))
        self._expect("metadata", (rows, nm_words(self.sparsity, columns)), torch.int32)
        for chunk in row_chunks(rows, columns):
            check_metadata(self.metadata[chunk], self.sparsity, groups)

    def values_gradient(self, grad_NM: Tensor, x_NK: Tensor) -> Tensor:
        """``[M, n, G]``: the dense gradient at the kept positions."""
        groups = self.values.shape[2]
        dense = (grad_NM.T @ x_NK).view(self.shape[0], groups, self.sparsity.m)
        index = positions(self.metadata, self.sparsity, groups)
        return dense.gather(2, index).transpose(1, 2).contiguous()
