"""What a sparse product costs this machine's CPU beyond reading its stored weight: torch's calls, and rebuilding the dense weight."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from nas.deploy.turns import time_in_turns
from nas.kernels import SparseLinear, pack
from search_spaces import Sparsity
from surrogates.base import FloatArray

# One of each pattern stands for its levels: the calls are the same, and the bytes are counted anyway.
_SPARSITIES = ("2:4", "unstructured:0.80", "block32:0.75", "vector32:0.75")
_SHAPES = ((128, 128), (256, 256), (1024, 256), (256, 1024))
_REPEATS = 15


@dataclass(frozen=True)
class SparseProducts:
    """Products of one token with small sparse float32 weights.

    Args:
        calls: by name.
        moved: bytes that each reads and writes, by name.
    """

    calls: dict[str, Callable[[], object]]
    moved: dict[str, int]

    def gauge(self) -> dict[str, float]:
        """Seconds of each, in turns.

        Together the weights are more than a core's own cache, as those of a model are, while torch's code stays warm, as in a model.
        """
        found = time_in_turns(self.calls, "cpu", _REPEATS, is_cold=False)
        return {name: 1e-6 * timing.median_us for name, timing in found.items()}

    def beyond_roofline(
        self, seconds: Mapping[str, float], overhead_s: float, bytes_s: float
    ) -> dict[str, tuple[float, float]]:
        """Seconds that a product adds to its roofline, by pattern: per product, and per weight of the dense matrix, 0 or more each.

        Args:
            seconds: of each, by name.
            overhead_s: of an operator's launch, part of the roofline.
            bytes_s: at which stored weights are read, part of the roofline.
        """
        weights = np.array([rows * columns for rows, columns in _SHAPES], dtype=np.float64)
        found: dict[str, tuple[float, float]] = {}
        for text in _SPARSITIES:
            names = [_name(text, shape) for shape in _SHAPES]
            extra = [seconds[n] - overhead_s - self.moved[n] / bytes_s for n in names]
            found[Sparsity.parse(text).pattern] = line(weights, np.array(extra))
        return found


def sparse_products() -> SparseProducts:
    """One product of each pattern and shape."""
    generator = torch.Generator().manual_seed(0)
    calls: dict[str, Callable[[], object]] = {}
    moved: dict[str, int] = {}
    for shape in _SHAPES:
        dense = torch.randn(shape, generator=generator)
        x = torch.randn(1, shape[1], generator=generator)
        for text in _SPARSITIES:
            packed = pack(dense, text)
            packed.may_copy = False  # as in a model
            name = _name(text, shape)
            calls[name] = functools.partial(SparseLinear(packed).forward, x)
            moved[name] = packed.stored_bytes + 4 * sum(shape)
    return SparseProducts(calls, moved)


def _name(text: str, shape: tuple[int, int]) -> str:
    return f"{text} {shape[0]} x {shape[1]}"


def line(weights: FloatArray, extra_s: FloatArray) -> tuple[float, float]:
    """Least squares of ``extra = a + b weights`` with a and b of 0 or more."""
    from scipy.optimize import nnls

    scale = float(weights.max())
    found, _ = nnls(np.column_stack([np.ones(len(weights)), weights / scale]), extra_s)
    return float(found[0]), float(found[1] / scale)
