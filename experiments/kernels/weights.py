"""Random weights of a shape, pruned by magnitude and stored in every kind that is asked for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.kernels.baselines import Dense
from experiments.kernels.door import pack_kind
from experiments.kernels.shapes import Kind, Shape
from nas.deploy.runtime import DTYPES
from nas.kernels import PackedWeight
from nas.kernels.patterns import group_rank, mask_from_rank


@dataclass(frozen=True)
class Packed:
    """A weight as it is stored, and what it is equal to.

    Args:
        kind: of the weight.
        weight: stored sparse.
        unpacked: dense.
    """

    kind: Kind
    weight: PackedWeight
    unpacked: Tensor


class RandomWeight:
    """One random weight, its dense products, and the ranks of its groups, which all levels of a pattern share."""

    def __init__(self, dtype: str, shape: Shape, device: str, seed: int) -> None:
        self.of = (dtype, shape)
        self.device, self.seed = device, seed
        self.weight = self.draw("weight", shape.out_features, shape.in_features)
        self.weight.mul_(shape.in_features**-0.5)  # so that products neither overflow nor vanish
        self.dense = Dense(self.weight)
        self._ranks: dict[tuple[str, int, int], Tensor] = {}

    def draw(self, name: str, *size: int) -> Tensor:
        """Standard normal values, the same whatever was drawn before."""
        dtype, shape = self.of
        words = f"{self.seed} {shape.name} {name}".encode()
        own = int.from_bytes(hashlib.sha256(words).digest()[:4], "big")
        generator = torch.Generator(self.device).manual_seed(own)
        return torch.randn(*size, generator=generator, device=self.device).to(DTYPES[dtype])

    def pack(self, kind: Kind) -> Packed:
        """The weight pruned by magnitude and stored."""
        sparsity = kind.sparsity
        pattern = (sparsity.pattern, sparsity.size, sparsity.m)
        if pattern not in self._ranks:
            self._ranks[pattern] = group_rank(self.weight, sparsity)
        shape = (self.weight.shape[0], self.weight.shape[1])
        mask = mask_from_rank(self._ranks[pattern], sparsity, shape)
        packed = pack_kind(self.weight, kind, mask)
        return Packed(kind, packed, packed.unpack())
