"""Positions of the kept weights of N:M groups, as bit planes in 32-bit words.

A group of m columns has P bits (:data:`search_spaces.formats.NM_PLANES`), its *code*. With one kept weight the code is its
position; with two, bit j says whether column j is kept. A word holds 32 / P groups; where bit j of group i of a word is:

===  ==============================
P    bit of the word
===  ==============================
2    8 (2 (i // 8) + j) + i % 8
4    8 j + i
8    8 (j % 4) + 4 (j // 4) + i
===  ==============================

So one shift by a group's own distance brings all its bits to the top of bytes (with P = 8, in two shifts). On a GPU, PRMT (byte
permute, which can spread a byte's top bit over whole bytes) then makes a mask of every bit, of two groups at once, whichever two a
thread has: no group needs to know what its neighbours are.

G groups in a row, W words in a row. Bytes are lowest first (little-endian), as on every device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.kernels.formats.base import PackedWeightError
from nas.kernels.formats.bits import popcount
from nas.kernels.traced import TensorCache
from search_spaces import Sparsity
from search_spaces.formats import NM_PLANES, nm_words


def encode(mask: Tensor, sparsity: Sparsity) -> Tensor:
    """Metadata of a mask.

    Args:
        mask: bool ``[M, K]``, True where kept.
        sparsity: the N:M pattern.

    Returns:
        int32 ``[M, W]``; bits of groups that a row does not have are zero.

    Raises:
        PackedWeightError: if a group does not keep n weights.
    """
    rows, columns = mask.shape
    planes = NM_PLANES[sparsity.n, sparsity.m]
    words = nm_words(sparsity, columns)
    kept = mask.view(torch.uint8).reshape(rows, -1, sparsity.m)
    bits = kept[:, :, 0].clone()  # column j kept: bit j
    for j in range(1, sparsity.m):
        bits |= kept[:, :, j] << j
    if not bool((popcount(bits) == sparsity.n).all()):
        raise PackedWeightError(
            f"expected {sparsity.n} kept weights in every {sparsity.m} for {sparsity}, got another mask"
        )
    if sparsity.n == 1:
        # The position from its one-hot bits: bit b of it is set for the columns that have bit b set.
        codes = torch.zeros_like(bits)
        for b, columns_with_b in enumerate((0b10101010, 0b11001100, 0b11110000)):
            codes |= ((bits & columns_with_b) != 0).to(torch.uint8) << b
    else:
        codes = bits
    codes = F.pad(codes, (0, words * (32 // planes) - codes.shape[1])).view(rows, words, -1)
    metadata = torch.zeros(rows, words, dtype=torch.int32, device=mask.device)
    for i in range(32 // planes):
        for j in range(planes):
            metadata |= ((codes[:, :, i] >> j) & 1).int() << bit_of(j, i, planes)
    return metadata


def bit_of(j: int, i: int, planes: int) -> int:
    """Bit of a word that is bit j of the code of its group i."""
    if planes == 2:
        return 8 * (2 * (i // 8) + j) + i % 8
    return 8 * j + i if planes == 4 else 8 * (j % 4) + 4 * (j // 4) + i


def positions(metadata: Tensor, sparsity: Sparsity, groups: int) -> Tensor:
    """Columns kept inside every group, ascending: int64 ``[M, G, n]`` of checked metadata ``[M, W]``."""
    codes = _codes(metadata, NM_PLANES[sparsity.n, sparsity.m])[:, :groups]
    table = _positions_of_codes(sparsity.n, sparsity.m, metadata.device)
    found = table.index_select(0, codes.reshape(-1))
    return found.view(*codes.shape, sparsity.n)


def check_metadata(metadata: Tensor, sparsity: Sparsity, groups: int) -> None:
    """Refuse codes that are no code and set bits that belong to no group.

    Raises:
        PackedWeightError: naming expected and remedy.
    """
    codes = _codes(metadata, NM_PLANES[sparsity.n, sparsity.m])
    if bool(codes[:, groups:].any()):
        raise PackedWeightError(
            f"expected zeros in metadata beyond the {groups} groups of a row; the file is damaged"
        )
    if sparsity.n == 2 and not bool((popcount(codes[:, :groups]) == 2).all()):
        raise PackedWeightError(
            f"expected two kept columns in every group of metadata for {sparsity}; the file is damaged"
        )
    if sparsity.n == 1 and bool((codes >= sparsity.m).any()):
        raise PackedWeightError(
            f"expected positions below {sparsity.m} in metadata; the file is damaged"
        )


def _codes(metadata: Tensor, planes: int) -> Tensor:
    """Codes of all groups a row has room for: int32 ``[M, W 32 / P]``."""
    spread = metadata[:, :, None] >> _group_shifts(planes, metadata.device)
    codes = _collect(spread, planes)
    if planes == 8:
        codes = codes | (_collect(spread >> 4, planes) << 4)
    return codes.flatten(1)


def _collect(spread: Tensor, planes: int) -> Tensor:
    """Bits 0, 8, 16 and 24 (0 and 8 of two planes) as bits 0 to 3: the product moves each to its place from 24 on."""
    if planes == 2:
        return ((spread & 0x0101) * 0x81 >> 7) & 3
    return (spread & 0x01010101) * 0x01020408 >> 24


def prepare(sparsity: Sparsity, device: torch.device) -> None:
    """Make what :func:`positions` reads on a device now: not while a CUDA graph is captured, which holds no copies from the host."""
    _group_shifts(NM_PLANES[sparsity.n, sparsity.m], device)
    _positions_of_codes(sparsity.n, sparsity.m, device)


_CACHE = TensorCache()


def _group_shifts(planes: int, device: torch.device) -> Tensor:
    """How far each group of a word is from its lowest place: int32 ``[32 / P]``."""
    return _CACHE.get((planes, device), lambda: _make_group_shifts(planes, device))


def _make_group_shifts(planes: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # kept for every later caller
        i = torch.arange(32 // planes, dtype=torch.int32, device=device)
        return 16 * (i // 8) + i % 8 if planes == 2 else i


def _positions_of_codes(n: int, m: int, device: torch.device) -> Tensor:
    """Kept columns that each of the 256 codes says: int64 ``[256, n]``, zero where it is no valid code."""
    return _CACHE.get((n, m, device), lambda: _make_positions(n, m, device))


def _make_positions(n: int, m: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        table = torch.zeros(256, n, dtype=torch.int64)
        for code in range(256):
            kept = [code] if n == 1 else [j for j in range(m) if code >> j & 1]
            if len(kept) == n and kept[-1] < m:
                table[code] = torch.tensor(kept)
        return table.to(device)
