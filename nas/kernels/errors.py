"""How far a product may be from the exact one: what checks before a timing, and the tuner, judge kernels by."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def relative_error(y: Tensor, exact: Tensor) -> float:
    """Largest deviation over the largest exact value; infinite where shapes differ or a value is not finite."""
    if y.shape != exact.shape or not bool(torch.isfinite(y).all()):
        return math.inf
    scale = float(exact.abs().max()) or 1.0
    return float((y.double() - exact).abs().max()) / scale


def allowed_error(dense: float, dtype: torch.dtype, num_terms: int) -> float:
    """What rounding explains, relative to the largest exact value.

    Twice the dense product's own error, four roundings of the result (the dense product is sometimes luckily exact), and a sum taken
    one by one in float32 (u sqrt(K), Higham and Mary, 2019), which dense products, summed in blocks, do not have.

    Args:
        dense: :func:`relative_error` of the dense product in the same dtype.
        dtype: of the product.
        num_terms: summed for one value, K.
    """
    unit = torch.finfo(torch.float32).eps / 2
    return 2.0 * dense + 4.0 * torch.finfo(dtype).eps + unit * math.sqrt(num_terms)
