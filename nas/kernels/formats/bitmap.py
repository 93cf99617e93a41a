"""Bitmap: single weights anywhere, one bit a position (pattern ``unstructured``; Tensor-Core-Aware Bitmap Encoding, SpInfer, EuroSys'25).

A bit costs less than an index as long as more than one weight in sixteen (of two bytes) or so is kept. Values lie tile by tile of 8 rows
and 32 columns, the shape of a tensor-core fragment: what the lanes of a warp load at once are neighbours in memory.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.kernels.chunks import row_chunks
from nas.kernels.formats.base import PackedWeight, PackedWeightError
from nas.kernels.formats.bits import popcount
from search_spaces import Sparsity
from search_spaces.formats import BITMAP_RECORD, BITMAP_TILE

ROWS, COLUMNS = BITMAP_TILE


class BitmapWeight(PackedWeight):
    """``values [nnz]`` tile by tile, row by row in a tile; ``tiles [ceil(M/8), ceil(K/32), 11]``, int32.

    A tile's record: the bits of its 8 rows (bit c for column c), the number of values before the
    tile, and for each row, in bytes, the number of values of the tile before it.
    """

    format = "bitmap"
    names = ("values", "tiles")
    values: Tensor
    tiles: Tensor

    @classmethod
    def pack(cls, weight: Tensor, sparsity: Sparsity, mask: Tensor) -> Self:
        """Keep the entries of the mask."""
        rows, columns = weight.shape
        values, bits = [], []
        for chunk in row_chunks(rows, columns, ROWS):
            kept = _tiled(mask[chunk])
            values.append(_tiled(weight[chunk])[kept])
            bits.append(_collect(kept))
        tensors = {"values": torch.cat(values), "tiles": _records(torch.cat(bits))}
        return cls(sparsity, (rows, columns), tensors)

    def unpack(self) -> Tensor:
        """The dense matrix; nothing is asked of the device, so that a CUDA graph can hold it."""
        rows, columns = self.shape
        if not self.nonzeros:
            return self.values.new_zeros(rows, columns)
        dense = self.values.new_empty(rows, columns)
        for chunk in row_chunks(rows, columns, ROWS):
            kept = self._kept(chunk).flatten(2)
            starts = self.tiles[chunk.start // ROWS :, :, ROWS][: len(kept)]
            # Of a place that holds none, the value before it in the tile is read, and not used.
            numbers = kept.cumsum(dim=2, dtype=torch.int32) + (starts[..., None] - 1)
            found = self.values.index_select(0, numbers.clamp_(min=0).flatten()).view(kept.shape)
            tiled = found.where(kept, 0).unflatten(2, (ROWS, COLUMNS))
            whole = tiled.transpose(1, 2).reshape(-1, kept.shape[1] * COLUMNS)
            dense[chunk] = whole[: chunk.stop - chunk.start, :columns]
        return dense

    def check(self) -> None:
        """Refuse damaged tensors."""
        rows, columns = self.shape
        self._expect("values", (self.nonzeros,))
        shape = (-(-rows // ROWS), -(-columns // COLUMNS), BITMAP_RECORD)
        tiles = self._expect("tiles", shape, torch.int32)
        if not bool((tiles == _records(tiles[:, :, :ROWS])).all()):
            raise PackedWeightError(
                "expected the starts of tiles and rows to count the bits before them; the file is damaged"
            )
        beyond = 0
        total = 0
        for chunk in row_chunks(rows, columns, ROWS):
            kept = self._kept(chunk)
            whole = kept.transpose(1, 2).reshape(-1, kept.shape[1] * COLUMNS)
            total += int(kept.sum())
            beyond += int(whole[chunk.stop - chunk.start :].sum()) + int(whole[:, columns:].sum())
        if total != self.nonzeros or beyond:
            raise PackedWeightError(
                f"expected {self.nonzeros} bits, all inside the matrix, got {total} with {beyond} outside; the file is damaged"
            )

    def _kept(self, chunk: slice) -> Tensor:
        """Mask of some rows, tile by tile: bool ``[panels, T, 8, 32]``."""
        bits = self.tiles[chunk.start // ROWS : -(-chunk.stop // ROWS), :, :ROWS]
        shifts = torch.arange(COLUMNS, dtype=torch.int32, device=bits.device)
        return ((bits[..., None] >> shifts) & 1).bool()


def _tiled(matrix: Tensor) -> Tensor:
    """Rows as ``[panels, T, 8, 32]``, zeros beyond the edge."""
    padded = F.pad(matrix, (0, -matrix.shape[1] % COLUMNS, 0, -matrix.shape[0] % ROWS))
    grid = padded.view(-1, ROWS, padded.shape[1] // COLUMNS, COLUMNS)
    return grid.transpose(1, 2)


def _collect(kept: Tensor) -> Tensor:
    """Bits of a mask ``[..., 32]`` as int32 words."""
    words = torch.zeros(kept.shape[:-1], dtype=torch.int32, device=kept.device)
    for column in range(COLUMNS):
        words |= kept[..., column].int() << column
    return words


def _records(bits: Tensor) -> Tensor:
    """Records of tiles from the bits of their rows: int32 ``[panels, T, 8]`` to ``[panels, T, 11]``."""
    octets = bits.contiguous().view(torch.uint8).view(*bits.shape, 4)
    counts = popcount(octets).sum(dim=-1)  # [panels, T, 8], int64
    before = counts.cumsum(dim=2) - counts
    in_tile = counts.sum(dim=2)
    starts = (in_tile.view(-1).cumsum(0) - in_tile.view(-1)).view(in_tile.shape)
    # At most 7 x 32 values come before a row in its tile, which a byte holds.
    in_rows = before.to(torch.uint8).view(torch.int32)
    return torch.cat((bits, starts.to(torch.int32)[:, :, None], in_rows), dim=2)
