"""Stored formats, one or more per sparsity pattern, and the two doors into them: :func:`pack` and :func:`from_tensors`."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nas.kernels.formats.base import PackedWeight as PackedWeight
from nas.kernels.formats.base import PackedWeightError as PackedWeightError
from nas.kernels.formats.base import check_mask
from nas.kernels.formats.bitmap import BitmapWeight as BitmapWeight
from nas.kernels.formats.bsr import BsrWeight as BsrWeight
from nas.kernels.formats.csl import CslWeight as CslWeight
from nas.kernels.formats.csr import CsrWeight as CsrWeight
from nas.kernels.formats.dense import DenseWeight as DenseWeight
from nas.kernels.formats.nm import NmWeight as NmWeight
from nas.kernels.formats.vector import VectorWeight as VectorWeight
from nas.kernels.patterns import magnitude_mask
from search_spaces import Sparsity
from search_spaces.formats import check_format, formats_of

_FORMATS: dict[str, type[PackedWeight]] = {
    kind.format: kind
    for kind in (
        *(DenseWeight, CsrWeight, CslWeight, BitmapWeight),
        *(BsrWeight, VectorWeight, NmWeight),
    )
}


def pack(
    weight: Tensor,
    sparsity: Sparsity | str,
    mask: Tensor | None = None,
    format: str | None = None,
) -> PackedWeight:
    """Store a weight in a format of its sparsity.

    Args:
        weight: ``[M, K]`` (out, in features), floating point.
        sparsity: a Sparsity or its short string.
        mask: bool ``[M, K]``, True where kept; by magnitude when not given.
        format: one of :func:`search_spaces.formats.formats_of`; when not given, the default one for
            the weight's bytes.

    Returns:
        The packed weight, on the weight's device and in its dtype.

    Raises:
        ValueError: if the pattern does not divide the shape, the mask does not have the pattern, or
            the format does not store it.
    """
    sparsity = Sparsity.parse(sparsity) if isinstance(sparsity, str) else sparsity
    format = check_format(sparsity, weight.element_size(), format)
    weight = weight.detach()
    if mask is None:
        mask = magnitude_mask(weight, sparsity)
    check_mask(weight, sparsity, mask)
    return _FORMATS[format].pack(weight, sparsity, mask)


def from_tensors(
    sparsity: Sparsity | str, shape: tuple[int, int], tensors: Mapping[str, Tensor]
) -> PackedWeight:
    """A packed weight from its stored tensors, checked before any kernel sees them.

    Their names say which of the sparsity's formats they are of.

    Raises:
        PackedWeightError: if the tensors contradict the shape or the sparsity, or hold indices out
            of range.
    """
    sparsity = Sparsity.parse(sparsity) if isinstance(sparsity, str) else sparsity
    if len(shape) != 2 or any(type(size) is not int for size in shape):
        raise PackedWeightError(f"expected a shape of two whole numbers, got {shape!r}")
    kinds = [_FORMATS[name] for name in formats_of(sparsity)]
    kind = next((k for k in kinds if set(k.names) == set(tensors)), None)
    if kind is None:
        raise PackedWeightError(
            f"expected the tensors {' or '.join(str(k.names) for k in kinds)} for {sparsity}, got {sorted(tensors)}; "
            "if an older version wrote the file, extract the model again"
        )
    try:
        return kind(sparsity, (shape[0], shape[1]), tensors)
    except PackedWeightError:
        raise
    except ValueError as error:  # the pattern does not divide the shape
        raise PackedWeightError(str(error)) from error


def from_checked(
    sparsity: str,
    stored: str,
    shape: tuple[int, int],
    tensors: Sequence[Tensor],
    hints: Sequence[int] = (0,),
) -> PackedWeight:
    """A packed weight around tensors that were checked when they were stored, in the order of their names."""
    first = tensors[0]
    described = _described(sparsity, stored, shape, first.dtype, first.device, tuple(hints))
    return described.holding(tensors, hints)


@functools.lru_cache(maxsize=4096)
def _described(
    sparsity: str,
    stored: str,
    shape: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    _: tuple[int, ...],
) -> PackedWeight:
    """One for each dtype, device and hints, on which it depends what dispatch chooses: that is remembered there."""
    return _FORMATS[stored].described(Sparsity.parse(sparsity), shape, (dtype, device))
