"""Column vectors: V consecutive rows share their kept columns, the same number in every panel (pattern ``vector``).

Gathering the inputs of a panel leaves a dense product of ``[N, k] x [k, V]``, so the arithmetic is regular on every device
(column-vector sparse encoding, Chen et al., SC'21 "vectorSparse").
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from nas.kernels.formats.base import PackedWeight, PackedWeightError
from search_spaces import Sparsity


class VectorWeight(PackedWeight):
    """``values [P, k, V]`` and ``columns [P, k]`` ascending, for P = M/V panels of k kept columns; indices are int32."""

    format = "vector"
    names = ("values", "columns")
    values: Tensor
    columns: Tensor

    @classmethod
    def pack(cls, weight: Tensor, sparsity: Sparsity, mask: Tensor) -> Self:
        rows, columns = weight.shape
        size = sparsity.size
        kept = mask.reshape(rows // size, size, columns).sum(dim=1)
        number = sparsity.num_kept(rows, columns)
        if not bool(
            ((kept == 0) | (kept == size)).all() and (kept > 0).sum(dim=1).eq(number).all()
        ):
            raise PackedWeightError(
                f"expected {number} whole columns in every panel of {size} rows for {sparsity}, got another mask"
            )
        index = (kept > 0).nonzero()[:, 1].reshape(rows // size, number)
        panels = weight.reshape(rows // size, size, columns).transpose(1, 2)
        values = panels.gather(1, index[:, :, None].expand(-1, -1, size))
        return cls(sparsity, (rows, columns), {"values": values, "columns": index.to(torch.int32)})

    def unpack(self) -> Tensor:
        panels, _, size = self.values.shape
        dense = self.values.new_zeros(panels, self.shape[1], size)
        index = self.columns.long()[:, :, None].expand(-1, -1, size)
        return dense.scatter_(1, index, self.values).transpose(1, 2).reshape(self.shape)

    def check(self) -> None:
        size = self.sparsity.size
        shape = (self.shape[0] // size, self.sparsity.num_kept(*self.shape))
        self._expect("values", (*shape, size))
        columns = self._expect_indices("columns", shape, self.shape[1])
        if not bool((columns.diff(dim=1) > 0).all()):
            raise PackedWeightError(
                "expected ascending columns in every panel; the file is damaged"
            )

    def multiply(self, x_NK: Tensor) -> Tensor:
        panels, kept, _ = self.values.shape
        gathered = x_NK.index_select(1, self.columns.flatten()).view(-1, panels, kept)
        return torch.bmm(gathered.transpose(0, 1), self.values).transpose(0, 1).flatten(1)

    def has_product(self, num_tokens: int) -> bool:
        """Gathered batched products, as long as what is gathered is no larger than the dense weight."""
        return num_tokens * self.values.shape[1] <= self.sparsity.size * self.shape[1]

    def values_gradient(self, grad_NM: Tensor, x_NK: Tensor) -> Tensor:
        """``[P, k, V]``: the gathered inputs of each panel times the gradients of its rows, some tokens at a time."""
        panels, kept, size = self.values.shape
        step = max(
            1, size * self.shape[1] // kept
        )  # what is gathered is then as large as the dense weight
        total = torch.zeros_like(self.values)
        for first in range(0, len(x_NK), step):
            x, grad = x_NK[first : first + step], grad_NM[first : first + step]
            gathered = x.index_select(1, self.columns.flatten()).view(-1, panels, kept)
            total += torch.bmm(
                gathered.permute(1, 2, 0), grad.view(-1, panels, size).transpose(0, 1)
            )
        return total
