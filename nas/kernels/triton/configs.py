"""Tile configurations: the finite list dispatch may choose from, and what to take where nothing was measured.

Every entry is compiled ahead of time in the tests (no spills, registers and shared memory within the card, instructions per weight
within the committed table), so that a tuned table can only name what is known to build.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from search_spaces import Sparsity

TOKEN_BLOCKS = (16, 32, 64)


@dataclass(frozen=True)
class TileConfig:
    """How a kernel is cut and run.

    Args:
        block_k: columns (vector, block: kept ones; N:M: groups; CSR: kept weights; portable CSL: items) of one turn.
        num_warps: of a program.
        num_stages: of the software pipeline.
        block_m: rows of a program where the format does not fix them, else 0.
        split: programs that share the columns of one block of rows; 0 chooses by :func:`split_for`.
        kernel: ``portable`` Triton, which the interpreter runs too, or ``assembly`` for tensor-core fragments (CUDA, 16 bits).
    """

    block_k: int
    num_warps: int
    num_stages: int
    block_m: int = 0
    split: int = 0
    kernel: str = "portable"

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> TileConfig:
        """Inverse of :meth:`to_json`."""
        return cls(**fields)


_TILES: dict[str, tuple[TileConfig, ...]] = {
    # stages are shared among loads that wait for one another (columns, then the rows of x they name): 5 keep two tiles on their way, 7
    # three, 3 and 4 only one
    "vector128": (TileConfig(128, 4, 5), TileConfig(64, 2, 7), TileConfig(64, 4, 7)),
    "vector64": (TileConfig(128, 4, 5), TileConfig(128, 2, 5), TileConfig(256, 4, 3)),
    "vector32": (TileConfig(128, 1, 5), TileConfig(64, 2, 7)),
    "block64": (TileConfig(128, 2, 5), TileConfig(256, 2, 5), TileConfig(128, 4, 5)),
    "block32": (TileConfig(256, 2, 5), TileConfig(128, 1, 5)),
    "block16": (TileConfig(256, 1, 5), TileConfig(128, 1, 7)),
    # what 64 tokens leave of sm_80's 163 KiB bounds the stages
    "1:4": (TileConfig(32, 4, 4, 128), TileConfig(32, 4, 3, 128), TileConfig(32, 8, 4, 128)),
    "2:4": (TileConfig(32, 4, 4, 128), TileConfig(32, 4, 3, 128), TileConfig(64, 8, 2, 128)),
    "1:8": (TileConfig(32, 4, 3, 128), TileConfig(16, 4, 4, 128), TileConfig(32, 8, 3, 128)),
    "2:8": (TileConfig(16, 4, 4, 128), TileConfig(32, 4, 3, 64), TileConfig(32, 8, 2, 128)),
    "csr": (TileConfig(128, 4, 1, 8), TileConfig(64, 4, 1, 16)),
    "csl": (TileConfig(64, 4, 1, 128, kernel="assembly"), TileConfig(512, 4, 1)),
    "bitmap": (TileConfig(32, 4, 1, 128, kernel="assembly"), TileConfig(32, 4, 1, 64)),
}


def tile_key(sparsity: Sparsity, stored: str) -> str:
    """What a list of tiles belongs to: the pattern with its size, or the format of unstructured weights."""
    if sparsity.pattern == "unstructured":
        return stored
    return str(sparsity).partition(":")[0] if sparsity.size else str(sparsity)


def tile_configs(
    sparsity: Sparsity, stored: str, has_assembly: bool = True
) -> tuple[TileConfig, ...]:
    """Every tile configuration of a format, the default one first; without assembly, only what the interpreter runs too."""
    found = _TILES[tile_key(sparsity, stored)]
    return tuple(c for c in found if has_assembly or c.kernel == "portable")


def all_tiles() -> dict[str, tuple[TileConfig, ...]]:
    """Every list of tiles by its key."""
    return dict(_TILES)


def token_block(num_tokens: int, stored: str) -> int:
    """Tokens of one program: the least block that holds them, at most 64 (4 for CSR's gather)."""
    if stored == "csr":
        return next(size for size in (1, 2, 4) if size >= min(num_tokens, 4))
    return next(size for size in TOKEN_BLOCKS if size >= min(num_tokens, TOKEN_BLOCKS[-1]))


def split_for(num_programs: int, num_turns: int, num_processors: int) -> int:
    """Programs per block of rows that fill the device twice, with four turns of the loop each at least.

    Args:
        num_programs: without a split.
        num_turns: of the loop over columns, without a split.
        num_processors: multiprocessors of the device.
    """
    wanted = math.ceil(2 * num_processors / max(1, num_programs))
    return max(1, min(wanted, num_turns // 4, 16))
