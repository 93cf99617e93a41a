"""What CSR and BSR share: ascending columns, row by row, and torch's own products with them."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from nas.kernels.formats.base import MAX_SPARSE_ROWS, PackedWeight, PackedWeightError


class CompressedRowsWeight(PackedWeight):
    """``values [n, ...]``, ``columns [n]`` and ``row_starts [R + 1]``, int32, of single weights or of blocks."""

    names = ("values", "columns", "row_starts")
    values: Tensor
    columns: Tensor
    row_starts: Tensor
    _matrix: Tensor | None = None
    _matrix_of: tuple[Tensor, ...] = ()

    @abstractmethod
    def _make_matrix(self) -> Tensor:
        """The same tensors as one of torch's sparse matrices."""

    def has_product(self, num_tokens: int) -> bool:
        """MKL, for a few tokens of float32."""
        return num_tokens <= MAX_SPARSE_ROWS and self.kind == (torch.float32, torch.device("cpu"))

    def multiply(self, x_NK: Tensor) -> Tensor:
        """``x W^T`` by MKL for a few rows of float32 on the CPU, else through the dense weight."""
        if not self.has_product(x_NK.shape[0]):
            return super().multiply(x_NK)
        stored = (self.values, self.columns, self.row_starts)
        # The matrix shares the tensors' memory, so only other tensors make it stale.
        if self._matrix is None or any(
            a is not b for a, b in zip(stored, self._matrix_of, strict=True)
        ):
            self._matrix_of = stored
            with torch.inference_mode(False), warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # "beta state", once per process
                self._matrix = self._make_matrix()
        if x_NK.shape[0] == 1:  # twice as fast as a matrix-matrix product of one column
            return torch.mv(self._matrix, x_NK[0])[None]
        return (self._matrix @ x_NK.T).T.contiguous()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._matrix = None  # moving or casting replaces the tensors it is made of
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        # torch cannot copy its sparse matrices
        return super().__getstate__() | {"_matrix": None, "_matrix_of": ()}

    def _check_rows(self, number: int, num_rows: int, num_columns: int) -> None:
        self._expect_indices("columns", (number,), num_columns)
        starts = self._expect_indices("row_starts", (num_rows + 1,), number + 1)
        if int(starts[0]) != 0 or int(starts[-1]) != number or bool((starts.diff() < 0).any()):
            raise PackedWeightError(
                f"expected row_starts to rise from 0 to {number}; the file is damaged"
            )
        ascending = self.columns[1:] > self.columns[:-1]
        ends = starts[(starts > 0) & (starts < number)] - 1  # the next entry begins a row
        ascending[ends.long()] = True
        if not bool(ascending.all()):
            raise PackedWeightError("expected ascending columns in every row; the file is damaged")

    def _rows(self) -> Tensor:
        """Row of every stored entry."""
        rows = torch.arange(len(self.row_starts) - 1, device=self.row_starts.device)
        counts = self.row_starts.diff().long()
        return rows.repeat_interleave(counts, output_size=len(self.columns))
