"""CSR: single weights anywhere, row by row (pattern ``unstructured``)."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from nas.kernels.formats.base import MAX_SPARSE_ROWS, PackedWeight, PackedWeightError
from search_spaces import Sparsity


class CsrWeight(PackedWeight):
    """``values [nnz]``, ``columns [nnz]`` ascending in every row, ``row_starts [M + 1]``; indices are int32."""

    names = ("values", "columns", "row_starts")
    values: Tensor
    columns: Tensor
    row_starts: Tensor

    @classmethod
    def pack(cls, weight: Tensor, sparsity: Sparsity, mask: Tensor) -> Self:
        row_starts = torch.zeros(weight.shape[0] + 1, dtype=torch.int32, device=weight.device)
        row_starts[1:] = mask.sum(dim=1).cumsum(0)
        columns = mask.nonzero()[:, 1].to(torch.int32)
        tensors = {"values": weight[mask], "columns": columns, "row_starts": row_starts}
        return cls(sparsity, (weight.shape[0], weight.shape[1]), tensors)

    def unpack(self) -> Tensor:
        dense = self.values.new_zeros(self.shape)
        dense[self._rows(), self.columns.long()] = self.values
        return dense

    def check(self) -> None:
        rows, columns = self.shape
        self._expect("values", (self.nonzeros,))
        self._expect_indices("columns", (self.nonzeros,), columns)
        starts = self._expect_indices("row_starts", (rows + 1,), self.nonzeros + 1)
        steps = starts.diff()
        if int(starts[0]) != 0 or int(starts[-1]) != self.nonzeros or bool((steps < 0).any()):
            raise PackedWeightError(
                f"expected row_starts to rise from 0 to {self.nonzeros}; the file is damaged"
            )
        ascending = (self.columns[1:] > self.columns[:-1]) | (self._rows().diff() > 0)
        if not bool(ascending.all()):
            raise PackedWeightError("expected ascending columns in every row; the file is damaged")

    def multiply(self, x_NK: Tensor) -> Tensor:
        if not (
            x_NK.device.type == "cpu"
            and x_NK.dtype == torch.float32
            and x_NK.shape[0] <= MAX_SPARSE_ROWS
        ):
            return super().multiply(x_NK)
        matrix = torch.sparse_csr_tensor(
            self.row_starts, self.columns, self.values, self.shape, check_invariants=False
        )
        if (
            x_NK.shape[0] == 1
        ):  # MKL's matrix-vector product is twice as fast as its matrix-matrix product of one column
            return torch.mv(matrix, x_NK[0])[None]
        return (matrix @ x_NK.T).T

    def _rows(self) -> Tensor:
        rows = torch.arange(self.shape[0], device=self.row_starts.device)
        return rows.repeat_interleave(self.row_starts.diff().long(), output_size=self.nonzeros)
