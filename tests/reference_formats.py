"""The bit layouts of the stored formats written out from their definitions, one weight and one bit at a time.

The oracle of the format tests: without a line of the package's formats. Masks are bool arrays ``[M, K]``, True where kept.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def signed(word: int) -> int:
    """A 32-bit word as an int32 holds it."""
    return word - 2**32 if word >= 2**31 else word


def nm_metadata(mask: Mask, n: int, m: int) -> list[list[int]]:
    """Words of every row, bit by bit from the table of the layout."""
    planes = {(1, 4): 2, (2, 4): 4, (1, 8): 4, (2, 8): 8}[n, m]
    per_word = 32 // planes
    rows = []
    for row in mask:
        groups = len(row) // m
        words = [0] * ((groups * planes + 31) // 32)
        for group in range(groups):
            kept = [j for j in range(m) if row[group * m + j]]
            assert len(kept) == n
            set_planes = kept if n == 2 else [b for b in range(planes) if kept[0] // 2**b % 2]
            i = group % per_word
            for j in set_planes:
                bit = {
                    2: 16 * (i // 8) + 8 * j + i % 8,
                    4: 8 * j + i,
                    8: 8 * (j % 4) + 4 * (j // 4) + i,
                }
                words[group // per_word] |= 1 << bit[planes]
        rows.append([signed(word) for word in words])
    return rows


def csl_tiles(mask: Mask) -> list[list[int]]:
    """Offsets of every tile in the order they are dealt: one of each bank in turn, fullest banks first."""
    rows, columns = mask.shape
    tiles = []
    for top in range(0, rows, 128):
        for left in range(0, columns, 64):
            banks: dict[int, list[int]] = {}
            for i in range(min(128, rows - top)):
                for j in range(min(64, columns - left)):
                    if mask[top + i, left + j]:
                        offset = 2 * (i * 72 + j)
                        banks.setdefault(offset // 4 % 32, []).append(offset)
            order = sorted(banks, key=lambda bank: (-len(banks[bank]), bank))
            dealt: list[int] = []
            while any(banks.values()):
                dealt += [banks[bank].pop(0) for bank in order if banks[bank]]
            tiles.append(dealt)
    return tiles


def bitmap(mask: Mask) -> list[list[list[int]]]:
    """Records of 11 words of every tile of 8 x 32: its rows' bits, its first value, the rows' first values in it (bytes)."""
    panels = []
    before = 0
    for top in range(0, mask.shape[0], 8):
        records = []
        for left in range(0, mask.shape[1], 32):
            words, firsts, start = [0] * 8, [0] * 8, before
            for i in range(8):
                firsts[i] = before - start
                for j in range(32):
                    if (
                        top + i < mask.shape[0]
                        and left + j < mask.shape[1]
                        and mask[top + i, left + j]
                    ):
                        words[i] |= 1 << j
                        before += 1
            low, high = (sum(firsts[4 * h + i] << (8 * i) for i in range(4)) for h in range(2))
            records.append([signed(word) for word in (*words, start, low, high)])
        panels.append(records)
    return panels
