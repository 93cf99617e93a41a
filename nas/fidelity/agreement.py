"""How alike architectures are: the share of the choices that they have in common."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from search_spaces import Architecture

FloatArray = npt.NDArray[np.float64]


def agreement(first: Sequence[Architecture], second: Sequence[Architecture]) -> FloatArray:
    """Share of equal choices, shape (n, q): of the width, of bias, and of every field of every layer.

    As a kernel it is that of a function that is a sum of one effect for each value of each choice, all of the same prior variance:
    positive semidefinite, 1 for equal architectures. A layer that one of the two lacks counts as different in all its fields.

    Args:
        first: n architectures.
        second: q architectures.
    """
    if not first or not second:
        return np.zeros((len(first), len(second)))
    every = [*first, *second]
    deepest = max(a.depth for a in every)
    codes: dict[Hashable, int] = {}
    rows = [[codes.setdefault(v, len(codes)) for v in _choices(a, deepest)] for a in every]
    coded = np.array(rows, dtype=np.int64)
    equal = coded[: len(first), None, :] == coded[None, len(first) :, :]
    shares: FloatArray = equal.mean(axis=-1, dtype=np.float64)
    return shares


def _choices(architecture: Architecture, num_layers: int) -> list[Hashable]:
    """Values of all choices in one order; of a missing layer None."""
    found: list[Hashable] = [architecture.embed_dim, architecture.bias]
    for layer in architecture.layers:
        found += [
            layer.num_heads,
            layer.ffn_ratio,
            layer.attention_sparsity,
            layer.ffn_sparsity,
            layer.adapter_rank,
        ]
    return found + [None] * (5 * (num_layers - architecture.depth))
