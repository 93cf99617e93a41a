"""CSR: single weights anywhere, row by row (pattern ``unstructured``)."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from nas.kernels.formats.compressed_rows import CompressedRowsWeight
from search_spaces import Sparsity


class CsrWeight(CompressedRowsWeight):
    """``values [nnz]``, ``columns [nnz]`` ascending in every row, ``row_starts [M + 1]``; indices are int32."""

    @classmethod
    def pack(cls, weight: Tensor, sparsity: Sparsity, mask: Tensor) -> Self:
        """Keep the entries of the mask."""
        row_starts = torch.zeros(weight.shape[0] + 1, dtype=torch.int32, device=weight.device)
        row_starts[1:] = mask.sum(dim=1).cumsum(0)
        columns = mask.nonzero()[:, 1].to(torch.int32)
        tensors = {"values": weight[mask], "columns": columns, "row_starts": row_starts}
        return cls(sparsity, (weight.shape[0], weight.shape[1]), tensors)

    def unpack(self) -> Tensor:
        """The dense matrix."""
        dense = self.values.new_zeros(self.shape)
        dense[self._rows(), self.columns.long()] = self.values
        return dense

    def check(self) -> None:
        """Refuse damaged tensors."""
        self._expect("values", (self.nonzeros,))
        self._check_rows(self.nonzeros, *self.shape)

    def _make_matrix(self) -> Tensor:
        return torch.sparse_csr_tensor(
            self.row_starts, self.columns, self.values, self.shape, check_invariants=False
        )
