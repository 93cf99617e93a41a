"""CSR: single weights anywhere, row by row (pattern ``unstructured``)."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from nas.kernels.chunks import row_chunks
from nas.kernels.formats.base import kept_values
from nas.kernels.formats.compressed_rows import CompressedRowsWeight
from search_spaces import Sparsity


class CsrWeight(CompressedRowsWeight):
    """``values [nnz]``, ``columns [nnz]`` ascending in every row, ``row_starts [M + 1]``; indices are int32."""

    format = "csr"

    @classmethod
    def pack(cls, weight: Tensor, sparsity: Sparsity, mask: Tensor) -> Self:
        """Keep the entries of the mask."""
        chunks = [mask[chunk] for chunk in row_chunks(weight.shape[0], weight.shape[1])]
        row_starts = torch.zeros(weight.shape[0] + 1, dtype=torch.int32, device=weight.device)
        row_starts[1:] = torch.cat([part.sum(dim=1) for part in chunks]).cumsum(0)
        columns = torch.cat([part.nonzero()[:, 1].to(torch.int32) for part in chunks])
        values = kept_values(weight, mask)
        tensors = {"values": values, "columns": columns, "row_starts": row_starts}
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
