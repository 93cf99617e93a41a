"""Tolerances and references for the tests of models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nas.model import (
    Supernet,
)
from search_spaces import Architecture
from tests import reference_gpt
from tests.small_models import arrays

# Largest difference of logits, which are of the order of one here. float64: rounding of some hundred operations. float32 sums in another
# order (a fused qkv, a CSR product): 1e-5 allows about a hundred roundings. bfloat16 has eight bits of mantissa: 2**-8 a rounding.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 0.15}


def assert_close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.shape == expected.shape
    difference = (found.double() - expected.double()).abs().max()
    limit = TOLERANCE[dtype] * max(1.0, float(expected.double().abs().max()))
    assert float(difference) <= limit, f"{float(difference):.3g} > {limit:.3g}"


def reference(supernet: Supernet, architecture: Architecture, tokens: Tensor) -> Tensor:
    family = supernet.space.family
    weights = reference_gpt.cut(arrays(supernet), family, architecture)
    return torch.from_numpy(reference_gpt.logits(family, architecture, weights, tokens.numpy()))


def storages(tensors: Any) -> set[int]:
    return {t.untyped_storage().data_ptr() for t in tensors if t.numel()}
