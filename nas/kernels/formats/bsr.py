"""BSR: square blocks anywhere, block row by block row (pattern ``block``)."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from nas.kernels.formats.base import PackedWeightError
from nas.kernels.formats.compressed_rows import CompressedRowsWeight
from search_spaces import Sparsity


class BsrWeight(CompressedRowsWeight):
    """``values [n, B, B]``, ``columns [n]`` (of blocks) ascending in every block row, ``row_starts [M/B + 1]``."""

    format = "bsr"

    @classmethod
    def pack(cls, weight: Tensor, sparsity: Sparsity, mask: Tensor) -> Self:
        """Keep the blocks of the mask."""
        rows, columns = weight.shape
        size = sparsity.size
        grid = (rows // size, size, columns // size, size)
        kept = mask.reshape(grid).sum(dim=(1, 3))
        if not bool(((kept == 0) | (kept == size * size)).all()):
            raise PackedWeightError(
                f"expected whole {size} x {size} blocks for {sparsity}, got a mask that splits one"
            )
        blocks = weight.reshape(grid).transpose(1, 2)
        row_starts = torch.zeros(grid[0] + 1, dtype=torch.int32, device=weight.device)
        row_starts[1:] = (kept > 0).sum(dim=1).cumsum(0)
        tensors = {
            "values": blocks[kept > 0],
            "columns": (kept > 0).nonzero()[:, 1].to(torch.int32),
            "row_starts": row_starts,
        }
        return cls(sparsity, (rows, columns), tensors)

    def unpack(self) -> Tensor:
        """The dense matrix."""
        size = self.sparsity.size
        grid = (self.shape[0] // size, self.shape[1] // size)
        dense = self.values.new_zeros(*grid, size, size)
        dense[self._rows(), self.columns.long()] = self.values
        return dense.transpose(1, 2).reshape(self.shape)

    def check(self) -> None:
        """Refuse damaged tensors."""
        size = self.sparsity.size
        number = self.nonzeros // size**2
        self._expect("values", (number, size, size))
        self._check_rows(number, self.shape[0] // size, self.shape[1] // size)

    def _make_matrix(self) -> Tensor:
        return torch.sparse_bsr_tensor(
            self.row_starts, self.columns, self.values, self.shape, check_invariants=False
        )
