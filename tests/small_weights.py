"""Small weights and masks of every pattern and format for the format tests."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from search_spaces import Sparsity
from search_spaces.formats import formats_of
from tests.reference_gpt import groups_of, num_kept

LEVELS = ("0.25", "0.50", "0.75", "0.90")
N_OF_M = ("2:4", "1:4", "2:8", "1:8")
TEXTS = (
    "dense",
    *N_OF_M,
    *(f"unstructured:{level}" for level in LEVELS),
    *(f"block16:{level}" for level in LEVELS),
    *(f"vector32:{level}" for level in LEVELS),
)
CASES = tuple((text, format) for text in TEXTS for format in formats_of(Sparsity.parse(text)))
SHAPES = {
    "dense": (5, 7),
    "n:m": (6, 24),
    "unstructured": (9, 13),
    "block": (48, 32),
    "vector": (64, 11),
}


def shape_of(sparsity: Sparsity) -> tuple[int, int]:
    return SHAPES[sparsity.pattern]


def random_weight(shape: tuple[int, int], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def random_mask(sparsity: Sparsity, shape: tuple[int, int], seed: int) -> Tensor:
    """A mask of the pattern with the right counts that has nothing to do with magnitudes."""
    rng = np.random.default_rng(seed)
    mask = torch.zeros(shape, dtype=torch.bool)
    if sparsity.pattern == "unstructured":
        size = shape[0] * shape[1]
        mask.view(-1)[rng.permutation(size)[: num_kept(sparsity, size)]] = True
        return mask
    for competing in groups_of(sparsity, *shape):
        for i in rng.permutation(len(competing))[: num_kept(sparsity, len(competing))]:
            for row, column in competing[i]:
                mask[row, column] = True
    return mask


def bits(tensor: Tensor) -> Tensor:
    """The bit pattern, so that -0.0, 0.0 and NaN are told apart."""
    return tensor.contiguous().view(
        {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    )
