"""Weights to compile for: every format with every tile configuration, as tensors that have a shape but no memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from nas.kernels.formats import PackedWeight, from_checked
from nas.kernels.triton.configs import TileConfig, all_tiles
from search_spaces import Sparsity
from search_spaces.formats import (
    BITMAP_RECORD,
    BITMAP_TILE,
    CSL_TILE,
    default_format,
    nm_words,
    num_tiles,
)

SHAPE = (28672, 7168)  # every tile divides it
EDGE_SHAPE = (28608, 7040)  # no tile of N:M does; its rows still start at multiples of 16 groups
CSL_LEVELS = (0.5, 0.7, 0.8, 0.9)
DEVIATIONS = 3.5  # of the emptiest and the fullest among some ten thousand tiles
# Kernels of whole vectors, blocks and rows never see a weight that is not stored.
PER = {"vector": "stored", "bsr": "stored", "csr": "stored", "nm": "dense", "csl": "dense", "bitmap": "dense"}  # fmt: skip


@dataclass(frozen=True)
class Weight:
    """A weight and the tiles it is launched with.

    Args:
        sparsity: of the matrix.
        stored: its format.
        config: its tiles.
        hints: of CSL: items of the emptiest and the fullest tile; empty where unknown.
        is_even: whether the tiles divide it.
    """

    sparsity: Sparsity
    stored: str
    config: TileConfig
    hints: tuple[int, ...] = ()
    is_even: bool = True

    @property
    def shape(self) -> tuple[int, int]:
        """``(M, K)``; a level that leaves no whole number of tiles makes column vectors uneven."""
        return SHAPE if self.is_even or self.stored == "vector" else EDGE_SHAPE

    @property
    def weights_of_turn(self) -> int:
        """Weights that one turn of the loop over K consumes, :data:`PER` stored or dense; 0 where turns differ."""
        rows = self.config.block_m or self.sparsity.size
        if (
            self.stored == "csl"
        ):  # the portable one loops inside its loop, as long as a tile has items
            return CSL_TILE[0] * CSL_TILE[1] if self.config.kernel == "assembly" else 0
        if self.stored == "bitmap":
            return rows * BITMAP_TILE[1]
        return rows * self.config.block_k * max(1, self.sparsity.m)

    def pack(self, dtype: torch.dtype, device: str) -> PackedWeight:
        """The packed weight; its tensors are empty.

        Raises:
            ValueError: if the format has no Triton kernel.
        """
        rows, columns = self.shape
        kept, size = self.sparsity.nonzeros(rows, columns), self.sparsity.size

        def values(*shape: int) -> torch.Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        def indices(*shape: int) -> torch.Tensor:
            return torch.empty(shape, dtype=torch.int32, device=device)

        if self.stored == "vector":
            panels = rows // size, kept // rows
            tensors = [values(*panels, size), indices(*panels)]
        elif self.stored == "bsr":
            blocks = kept // size**2
            tensors = [values(blocks, size, size), indices(blocks), indices(rows // size + 1)]
        elif self.stored == "nm":
            groups, words = columns // self.sparsity.m, nm_words(self.sparsity, columns)
            tensors = [values(rows, self.sparsity.n, groups), indices(rows, words)]
        elif self.stored == "csr":
            tensors = [values(kept), indices(kept), indices(rows + 1)]
        elif self.stored == "csl":
            tensors = [values(kept, 2), indices(num_tiles(rows, columns) + 1)]
        elif self.stored == "bitmap":
            tiles = rows // BITMAP_TILE[0], columns // BITMAP_TILE[1]
            tensors = [values(kept), indices(*tiles, BITMAP_RECORD)]
        else:
            raise ValueError(
                f"expected a format with a Triton kernel, got {self.stored!r}; describe its tensors here"
            )
        return from_checked(str(self.sparsity), self.stored, self.shape, tensors, self.hints)


def all_weights(edges: bool = True) -> Iterator[Weight]:
    """A weight for every tile configuration; CSL's kernel depends on the level too.

    Args:
        edges: also those that the tiles do not divide, where the kernel is another one for them.
    """
    for key, configs in all_tiles().items():
        for config in configs:
            if key == "csl" and config.kernel == "assembly":
                for level in CSL_LEVELS:
                    sparsity = Sparsity("unstructured", level)
                    yield Weight(sparsity, key, config, csl_hints(level))
                yield Weight(Sparsity("unstructured", 0.5), key, config)  # from empty to full tiles
            elif key in ("csl", "bitmap", "csr"):
                yield Weight(Sparsity("unstructured", 0.75), key, config)
            else:
                sparsity = Sparsity.parse(key if ":" in key else f"{key}:0.75")
                stored = default_format(sparsity, 2)
                yield Weight(sparsity, stored, config)
                if edges and stored in ("vector", "nm"):
                    uneven = Sparsity.parse(key if ":" in key else f"{key}:0.80")
                    yield Weight(uneven, stored, config, is_even=False)


def csl_hints(level: float) -> tuple[int, int]:
    """Items of the emptiest and the fullest tile where zeros lie anywhere."""
    size = CSL_TILE[0] * CSL_TILE[1]
    mean, deviation = size * (1 - level), math.sqrt(size * level * (1 - level))
    return math.floor(mean - DEVIATIONS * deviation), math.ceil(mean + DEVIATIONS * deviation)
