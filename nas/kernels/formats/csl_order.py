"""Order of the items of a CSL tile: 32 neighbours go to different banks of shared memory, as long as the tile allows it.

A warp stores 32 consecutive items at a time (counted from the tile's start), each at its offset, row 72 + column, in units of two
bytes. Shared memory has 32 banks of four bytes: an item goes to bank (offset / 2) % 32, and items of one bank wait for each other.
So the items are dealt: first one of each bank, then the second of each, and so on; within a round the banks with most items come
first, inside a bank the lower offset. Every 32 neighbours then meet all banks that still have items, or 32 of them.

Rows are 72 wide, not 64, so that the fragments of a product are read from the tile without conflicts.

T tiles; 8192 = 128 x 64 places in a tile, 256 in each of its banks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.kernels.traced import TensorCache
from search_spaces.formats import CSL_TILE

PADDED_COLUMNS = CSL_TILE[1] + 8
BANKS = 32
_PLACES = CSL_TILE[0] * CSL_TILE[1] // BANKS


def dealt_offsets(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets of the kept weights, tile by tile, in the order that they are dealt.

    Args:
        mask: bool ``[M, K]``, True where kept; M and K may cut the last tiles.

    Returns:
        int32 ``[nnz]``, and how many are in each tile, int64 ``[T]``.
    """
    offsets, order = _bank_order(mask.device)
    by_bank = _tiles(mask)[:, order]
    counts = by_bank.view(-1, BANKS, _PLACES).sum(dim=2, dtype=torch.int32)  # [T, 32]
    in_tiles = counts.sum(dim=1)
    kept = by_bank.view(-1).nonzero()[:, 0].int()  # tile 8192 + bank 256 + place: sorted as wanted
    banks = kept >> 8
    first_of_bank = _exclusive_cumsum(counts.view(-1))
    turns = torch.arange(len(kept), dtype=torch.int32, device=mask.device)
    turns -= first_of_bank.index_select(0, banks)  # the round that deals an item
    # Before an item come whole rounds, and in its own round the banks with more items.
    ranks = counts.argsort(dim=1, descending=True, stable=True).argsort(dim=1).view(-1)
    before = _dealt_before(counts) + _exclusive_cumsum(in_tiles)[:, None]
    slots = before.view(-1).index_select(0, (kept >> 13) * (_PLACES + 1) + turns)
    slots += ranks.index_select(0, banks)
    dealt = torch.empty(len(kept), dtype=torch.int32, device=mask.device)
    dealt[slots] = offsets.int().index_select(0, kept & (BANKS * _PLACES - 1))
    return dealt, in_tiles


def _dealt_before(counts: Tensor) -> Tensor:
    """Items of a tile that are dealt before each round, int64 ``[T, 257]``, from the items of each bank ``[T, 32]``."""
    tiles = torch.arange(len(counts), device=counts.device)[:, None] * (_PLACES + 1)
    held = torch.bincount((tiles + counts).view(-1), minlength=len(counts) * (_PLACES + 1))
    # Banks with more than i items deal in round i.
    dealing = BANKS - held.view(len(counts), -1).cumsum(dim=1)
    return dealing.cumsum(dim=1) - dealing


def _exclusive_cumsum(counts: Tensor) -> Tensor:
    return counts.cumsum(0) - counts


def _tiles(mask: Tensor) -> Tensor:
    """Tiles of a mask, row by row, each flattened: bool ``[T, 8192]``, False beyond the edge."""
    rows, columns = CSL_TILE
    padded = F.pad(mask, (0, -mask.shape[1] % columns, 0, -mask.shape[0] % rows))
    grid = padded.view(-1, rows, padded.shape[1] // columns, columns)
    return grid.transpose(1, 2).reshape(-1, rows * columns)


_CACHE = TensorCache()


def _bank_order(device: torch.device) -> tuple[Tensor, Tensor]:
    """Places of a tile sorted by (bank, offset): their offsets, and their indices in the flattened tile, int64."""
    offsets, order = _CACHE.get((device,), lambda: _make_bank_order(device))
    return offsets, order


def _make_bank_order(device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # kept for every later caller
        row, column = torch.meshgrid(*map(torch.arange, CSL_TILE), indexing="ij")
        offsets = (row * PADDED_COLUMNS + column).flatten()
        order = (offsets // 2 % BANKS).argsort(stable=True)  # every bank holds 256 of the places
        return torch.stack((offsets[order], order)).to(device)
