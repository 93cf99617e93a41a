"""CSL: single weights anywhere, tile by tile, each beside its place in the tile (pattern ``unstructured``).

Tiled-CSL of Flash-LLM (Xia et al., 2309.10285): a block of threads loads the items of a tile and stores each value at its offset
in a zeroed tile in shared memory, which then feeds a dense product. The order of the items is that of
:mod:`nas.kernels.formats.csl_order`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
from torch import Tensor

from nas.kernels.chunks import row_chunks
from nas.kernels.formats.base import PackedWeight, PackedWeightError
from nas.kernels.formats.csl_order import PADDED_COLUMNS, dealt_offsets
from search_spaces import Sparsity
from search_spaces.formats import CSL_TILE, num_tiles

TILE_ROWS, TILE_COLUMNS = CSL_TILE

# A value and its offset have the same width: one load of 32 bits fetches both of a 16-bit weight.
_OFFSET_DTYPES = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class CslWeight(PackedWeight):
    """``items [nnz, 2]``: value, and bits of its offset 2 (row 72 + column) in the tile; ``starts [tiles + 1]``, int32.

    Tiles of 128 rows x 64 columns lie row by row; the last ones may be cut by the matrix's edge.
    """

    format = "csl"
    names = ("items", "starts")
    items: Tensor
    starts: Tensor

    @property
    def values(self) -> Tensor:
        """Kept weights ``[nnz]`` in the order of the items; a view."""
        return self.items[:, 0]

    @property
    def offsets(self) -> Tensor:
        """Offsets ``[nnz]`` in their tiles, an integer as wide as a value; a view."""
        return self.items.view(_OFFSET_DTYPES[self.items.element_size()])[:, 1]

    @classmethod
    def pack(cls, weight: Tensor, sparsity: Sparsity, mask: Tensor) -> Self:
        """Keep the entries of the mask."""
        rows, columns = weight.shape
        items = weight.new_empty(sparsity.nonzeros(rows, columns), 2)
        bits = items.view(_OFFSET_DTYPES[weight.element_size()])
        counts = []
        end = 0
        for chunk in row_chunks(rows, columns, TILE_ROWS):
            offsets, in_tiles = dealt_offsets(mask[chunk])
            start, end = end, end + len(offsets)
            places = _places(offsets, _item_corners(in_tiles, columns, len(offsets)), columns)
            items[start:end, 0] = weight[chunk].reshape(-1)[places]
            bits[start:end, 1] = (2 * offsets).to(bits.dtype)
            counts.append(in_tiles)
        ends = torch.cat(counts).cumsum(0)
        starts = torch.cat((ends.new_zeros(1), ends)).to(torch.int32)
        return cls(sparsity, (rows, columns), {"items": items, "starts": starts})

    def unpack(self) -> Tensor:
        """The dense matrix; nothing is asked of the device, so that a CUDA graph can hold it."""
        dense = self.items.new_zeros(self.shape)
        ends = self.starts[1:]
        for some in row_chunks(self.nonzeros, 1):
            numbers = torch.arange(some.start, some.stop, dtype=torch.int32, device=ends.device)
            tiles = torch.searchsorted(ends, numbers, right=True, out_int32=True)
            corners = _corners(tiles, self.shape[1])
            places = _places(self.offsets[some] // 2, corners, self.shape[1])
            dense.view(-1)[places] = self.values[some]
        return dense

    def check(self) -> None:
        """Refuse damaged tensors."""
        rows, columns = self.shape
        items = self._expect("items", (self.nonzeros, 2))
        if items.element_size() not in _OFFSET_DTYPES:
            raise PackedWeightError(f"expected items of 2, 4 or 8 bytes, got {items.dtype}")
        number = num_tiles(rows, columns) + 1
        starts = self._expect_indices("starts", (number,), self.nonzeros + 1)
        if (
            int(starts[0]) != 0
            or int(starts[-1]) != self.nonzeros
            or bool((starts.diff() < 0).any())
        ):
            raise PackedWeightError(
                f"expected starts to rise from 0 to {self.nonzeros}; the file is damaged"
            )
        counts = starts.diff()
        self.hints = (
            int(counts.min()),
            int(counts.max()),
        )  # items of the emptiest and the fullest tile
        for chunk, slots, in_tiles in self._chunks():
            offsets = self.offsets[slots] // 2
            if bool((self.offsets[slots] % 2 != 0).any()):
                raise PackedWeightError(
                    "expected even offsets (second column of items), got an odd one; the file is damaged"
                )
            height = chunk.stop - chunk.start
            if not _are_inside(offsets, in_tiles, (height, columns)):
                raise PackedWeightError(
                    "expected offsets (second column of items) inside their tiles and the matrix; the file is damaged"
                )
            taken = torch.zeros(height * columns, dtype=torch.bool, device=items.device)
            corners = _item_corners(in_tiles, columns, len(offsets))
            taken[_places(offsets, corners, columns)] = True
            if int(taken.sum()) != len(offsets):
                raise PackedWeightError(
                    "expected every offset once in a tile, got one twice; the file is damaged"
                )

    def _chunks(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Rows of whole tiles, their items, and how many of those are in each tile."""
        rows, columns = self.shape
        across = -(-columns // TILE_COLUMNS)
        firsts = self.starts[::across].tolist()  # of every row of tiles, and the end
        for chunk in row_chunks(rows, columns, TILE_ROWS):
            top, bottom = chunk.start // TILE_ROWS, -(-chunk.stop // TILE_ROWS)
            starts = self.starts[top * across : bottom * across + 1]
            yield chunk, slice(firsts[top], firsts[bottom]), starts.diff()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        dtype = fn(self.items.new_empty(0)).dtype
        if dtype != self.items.dtype:  # a cast would read the offsets as numbers
            values, offsets = fn(self.values.clone()), fn(self.offsets.clone())
            self.items = values.new_empty(len(values), 2)
            self.items[:, 0] = values
            self.offsets.copy_(offsets)
        return super()._apply(fn, recurse)


def _places(offsets: Tensor, corners: Tensor, columns: int) -> Tensor:
    """Index of every item in the flattened matrix, from its offset and its tile's corner (int64, overwritten)."""
    offsets = offsets.int()
    rows = torch.div(offsets, PADDED_COLUMNS, rounding_mode="floor")
    return corners.add_(rows * (columns - PADDED_COLUMNS) + offsets)


def _corners(tiles: Tensor, columns: int) -> Tensor:
    """Index of the first weight of tiles in the flattened matrix, int64."""
    across = -(-columns // TILE_COLUMNS)
    return (tiles // across).long() * (TILE_ROWS * columns) + tiles % across * TILE_COLUMNS


def _item_corners(in_tiles: Tensor, columns: int, number: int) -> Tensor:
    """:func:`_corners` of each of a number of items, from how many are in each tile."""
    tiles = torch.arange(len(in_tiles), device=in_tiles.device)
    return _per_item(_corners(tiles, columns), in_tiles, number)


def _are_inside(offsets: Tensor, in_tiles: Tensor, shape: tuple[int, int]) -> bool:
    """Whether the offsets of whole rows of tiles lie in their tiles and in a matrix of ``shape``."""
    if not len(offsets):
        return True
    if int(offsets.min()) < 0 or int(offsets.max()) >= TILE_ROWS * PADDED_COLUMNS:
        return False
    across = -(-shape[1] // TILE_COLUMNS)
    tiles = torch.arange(len(in_tiles), device=in_tiles.device)
    heights = (shape[0] - tiles // across * TILE_ROWS).clamp(max=TILE_ROWS)
    widths = (shape[1] - tiles % across * TILE_COLUMNS).clamp(max=TILE_COLUMNS)
    rows = torch.div(offsets.int(), PADDED_COLUMNS, rounding_mode="floor")
    are_low = rows < _per_item(heights.int(), in_tiles, len(offsets))
    are_left = offsets.int() - rows * PADDED_COLUMNS < _per_item(
        widths.int(), in_tiles, len(offsets)
    )
    return bool((are_low & are_left).all())


def _per_item(of_tiles: Tensor, in_tiles: Tensor, number: int) -> Tensor:
    return of_tiles.repeat_interleave(in_tiles.long(), output_size=number)
