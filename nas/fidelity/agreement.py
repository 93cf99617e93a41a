"""How alike architectures are: the share of the choices that they have in common."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from search_spaces import Architecture

FloatArray = npt.NDArray[np.float64]
_PER_LAYER = 5  # choices; a dropped part is one of width 0


def agreement(first: Sequence[Architecture], second: Sequence[Architecture]) -> FloatArray:
    """Share of equal choices, shape (n, q): of width and bias, and of width, sparsity and adapter of both parts of every layer.

    The overlap kernel: that of a function that is a sum of one effect for each value of each choice, all of the same prior variance.
    Positive semidefinite, 1 for equal architectures. A layer that one of the two lacks, or both, has no choices to share: what is equal
    is counted, and divided by the geometric mean of the numbers of choices that the two have.

    Args:
        first: n architectures.
        second: q architectures.
    """
    if not first or not second:
        return np.zeros((len(first), len(second)))
    every = [*first, *second]
    deepest = max(a.depth for a in every)
    codes: dict[Hashable, int] = {}
    rows = [[codes.setdefault(v, len(codes)) for v in _choices(a)] for a in every]
    width = 2 + _PER_LAYER * deepest
    coded = np.full((len(every), width), -1, dtype=np.int64)
    for row, values in zip(coded, rows, strict=True):
        row[: len(values)] = values
    ours, theirs = coded[: len(first), None, :], coded[None, len(first) :, :]
    equal = ((ours == theirs) & (ours >= 0)).sum(axis=-1)
    counts = np.array([len(values) for values in rows], dtype=np.float64)
    shares: FloatArray = equal / np.sqrt(np.outer(counts[: len(first)], counts[len(first) :]))
    return shares


def _choices(architecture: Architecture) -> list[Hashable]:
    """Values of all choices in one order."""
    found: list[Hashable] = [architecture.embed_dim, architecture.bias]
    for layer in architecture.layers:
        found += [
            layer.num_heads,
            layer.ffn_ratio,
            layer.attention_sparsity,
            layer.ffn_sparsity,
            layer.adapter_rank,
        ]
    return found
