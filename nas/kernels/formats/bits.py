"""Bits of small numbers, where torch has no population count."""

from __future__ import annotations

from torch import Tensor


def popcount(octets: Tensor) -> Tensor:
    """Set bits of every number below 256, any integer dtype (Hacker's Delight, figure 5-2)."""
    pairs = octets - ((octets >> 1) & 0x55)
    quads = (pairs & 0x33) + ((pairs >> 2) & 0x33)
    return (quads + (quads >> 4)) & 0x0F
