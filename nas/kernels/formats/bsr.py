"""BSR: square blocks anywhere, block row by block row (pattern ``block``)."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from nas.kernels.formats.base import MAX_SPARSE_ROWS, PackedWeight, PackedWeightError
from search_spaces import Sparsity


class BsrWeight(PackedWeight):
    """``values [n, B, B]``, ``columns [n]`` (of blocks) ascending in every block row, ``row_starts [M/B + 1]``."""

    names = ("values", "columns", "row_starts")
    values: Tensor
    columns: Tensor
    row_starts: Tensor

    @classmethod
    def pack(cls, weight: Tensor, sparsity: Sparsity, mask: Tensor) -> Self:
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

    @property
    def num_blocks(self) -> int:
        """Stored blocks."""
        return self.nonzeros // self.sparsity.size**2

    def unpack(self) -> Tensor:
        size = self.sparsity.size
        grid = (self.shape[0] // size, self.shape[1] // size)
        dense = self.values.new_zeros(*grid, size, size)
        dense[self._rows(), self.columns.long()] = self.values
        return dense.transpose(1, 2).reshape(self.shape)

    def check(self) -> None:
        size, number = self.sparsity.size, self.num_blocks
        self._expect("values", (number, size, size))
        self._expect_indices("columns", (number,), self.shape[1] // size)
        starts = self._expect_indices("row_starts", (self.shape[0] // size + 1,), number + 1)
        if int(starts[0]) != 0 or int(starts[-1]) != number or bool((starts.diff() < 0).any()):
            raise PackedWeightError(
                f"expected row_starts to rise from 0 to {number}; the file is damaged"
            )
        ascending = (self.columns[1:] > self.columns[:-1]) | (self._rows().diff() > 0)
        if not bool(ascending.all()):
            raise PackedWeightError(
                "expected ascending columns in every block row; the file is damaged"
            )

    def multiply(self, x_NK: Tensor) -> Tensor:
        if not (
            x_NK.device.type == "cpu"
            and x_NK.dtype == torch.float32
            and x_NK.shape[0] <= MAX_SPARSE_ROWS
        ):
            return super().multiply(x_NK)
        matrix = torch.sparse_bsr_tensor(
            self.row_starts, self.columns, self.values, self.shape, check_invariants=False
        )
        if x_NK.shape[0] == 1:
            return torch.mv(matrix, x_NK[0])[None]
        return (matrix @ x_NK.T).T

    def _rows(self) -> Tensor:
        rows = torch.arange(len(self.row_starts) - 1, device=self.row_starts.device)
        return rows.repeat_interleave(self.row_starts.diff().long(), output_size=self.num_blocks)
