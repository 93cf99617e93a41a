"""N:M: N weights kept in every M consecutive columns, each with its position in log2 M bits (pattern ``n:m``).

The positions are packed into bytes, lowest bits first, in the order of the values. On the CPU the product rebuilds the dense
weight: N:M saves memory there, not time.
"""

from __future__ import annotations

import math
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.kernels.formats.base import PackedWeight, PackedWeightError
from search_spaces import Sparsity


class NmWeight(PackedWeight):
    """``values [M K n/m]`` row by row and ``positions``: uint8, log2 m bits a value."""

    names = ("values", "positions")
    values: Tensor
    positions: Tensor

    @classmethod
    def pack(cls, weight: Tensor, sparsity: Sparsity, mask: Tensor) -> Self:
        n, m = sparsity.n, sparsity.m
        groups = mask.reshape(-1, m)
        if not bool(groups.sum(dim=1).eq(n).all()):
            raise PackedWeightError(
                f"expected {n} kept weights in every {m} for {sparsity}, got another mask"
            )
        positions = groups.nonzero()[:, 1].to(torch.uint8)
        tensors = {"values": weight[mask], "positions": pack_bits(positions, int(math.log2(m)))}
        return cls(sparsity, (weight.shape[0], weight.shape[1]), tensors)

    def unpack(self) -> Tensor:
        n, m = self.sparsity.n, self.sparsity.m
        dense = self.values.new_zeros(self.nonzeros // n, m)
        return dense.scatter_(1, self._positions().long(), self.values.view(-1, n)).view(self.shape)

    def check(self) -> None:
        bits = int(math.log2(self.sparsity.m))
        self._expect("values", (self.nonzeros,))
        self._expect("positions", (math.ceil(self.nonzeros * bits / 8),), torch.uint8)
        if not bool((self._positions().int().diff(dim=1) > 0).all()):
            raise PackedWeightError(
                "expected ascending positions in every group; the file is damaged"
            )

    def _positions(self) -> Tensor:
        bits = int(math.log2(self.sparsity.m))
        return unpack_bits(self.positions, bits, self.nonzeros).view(-1, self.sparsity.n)


def pack_bits(numbers: Tensor, bits: int) -> Tensor:
    """Write small numbers into bytes, lowest bits first.

    Args:
        numbers: uint8 ``[n]``, each below ``2 ** bits``.
        bits: 1 to 8.

    Returns:
        uint8 ``[ceil(n bits / 8)]``.
    """
    shifts = torch.arange(bits, device=numbers.device, dtype=torch.uint8)
    stream = ((numbers[:, None] >> shifts) & 1).flatten()
    octets = F.pad(stream, (0, -len(stream) % 8)).view(-1, 8)
    weights = 1 << torch.arange(8, device=numbers.device, dtype=torch.uint8)
    return (octets * weights).sum(dim=1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, bits: int, count: int) -> Tensor:
    """Inverse of :func:`pack_bits`: the first ``count`` numbers, uint8."""
    if 8 % bits == 0:  # whole numbers per byte: one shift and mask instead of single bits
        shifts = torch.arange(0, 8, bits, device=packed.device, dtype=torch.uint8)
        numbers: Tensor = (packed[:, None] >> shifts) & (2**bits - 1)
        return numbers.flatten()[:count]
    shifts = torch.arange(8, device=packed.device, dtype=torch.uint8)
    stream = ((packed[:, None] >> shifts) & 1).flatten()[: count * bits].view(count, bits)
    weights = 1 << torch.arange(bits, device=packed.device, dtype=torch.uint8)
    return (stream * weights).sum(dim=1, dtype=torch.uint8)
