"""Stored formats, one per sparsity pattern, and the two doors into them: :func:`pack` and :func:`from_tensors`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from nas.kernels.formats.base import PackedWeight as PackedWeight
from nas.kernels.formats.base import PackedWeightError as PackedWeightError
from nas.kernels.formats.base import check_mask
from nas.kernels.formats.bsr import BsrWeight as BsrWeight
from nas.kernels.formats.csr import CsrWeight as CsrWeight
from nas.kernels.formats.dense import DenseWeight as DenseWeight
from nas.kernels.formats.nm import NmWeight as NmWeight
from nas.kernels.formats.vector import VectorWeight as VectorWeight
from nas.kernels.patterns import magnitude_mask
from search_spaces import Sparsity

_FORMATS: dict[str, type[PackedWeight]] = {
    "dense": DenseWeight,
    "unstructured": CsrWeight,
    "block": BsrWeight,
    "vector": VectorWeight,
    "n:m": NmWeight,
}


def pack(weight: Tensor, sparsity: Sparsity | str, mask: Tensor | None = None) -> PackedWeight:
    """Store a weight in the format of its sparsity.

    Args:
        weight: ``[M, K]`` (out, in features), floating point.
        sparsity: a Sparsity or its short string.
        mask: bool ``[M, K]``, True where kept; by magnitude when not given.

    Returns:
        The packed weight, on the weight's device and in its dtype.

    Raises:
        ValueError: if the pattern does not divide the shape, or the mask does not have the pattern.
    """
    sparsity = Sparsity.parse(sparsity) if isinstance(sparsity, str) else sparsity
    weight = weight.detach()
    if mask is None:
        mask = magnitude_mask(weight, sparsity)
    check_mask(weight, sparsity, mask)
    return _FORMATS[sparsity.pattern].pack(weight, sparsity, mask)


def from_tensors(
    sparsity: Sparsity | str, shape: tuple[int, int], tensors: Mapping[str, Tensor]
) -> PackedWeight:
    """A packed weight from its stored tensors, checked before any kernel sees them.

    Raises:
        PackedWeightError: if the tensors contradict the shape or the sparsity, or hold indices out
            of range.
    """
    sparsity = Sparsity.parse(sparsity) if isinstance(sparsity, str) else sparsity
    if len(shape) != 2 or any(type(size) is not int for size in shape):
        raise PackedWeightError(f"expected a shape of two whole numbers, got {shape!r}")
    try:
        return _FORMATS[sparsity.pattern](sparsity, (shape[0], shape[1]), tensors)
    except PackedWeightError:
        raise
    except ValueError as error:  # the pattern does not divide the shape
        raise PackedWeightError(str(error)) from error


def tensor_names(sparsity: Sparsity) -> tuple[str, ...]:
    """Names of the stored tensors of a sparsity's format."""
    return _FORMATS[sparsity.pattern].names
