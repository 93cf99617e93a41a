"""Masks of a supernet's slices, cached: nested in the level, recomputed when the weight has changed."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nas.kernels.patterns import group_rank, mask_from_rank
from search_spaces import Sparsity


@dataclass
class _Slice:
    weight: Tensor  # held so that no other tensor can take its address
    state: tuple[int, int]  # of the weight: see _state
    rank: Tensor
    masks: dict[Sparsity, Tensor] = field(default_factory=dict)
    masked: dict[Sparsity, Tensor] = field(default_factory=dict)


class MaskCache:
    """Magnitude masks of weight slices.

    Ranks are cached per (weight, slice, pattern), so all levels of a pattern share one sort.
    Without gradients the masked slice is cached too. An entry lives as long as the weight stays
    unchanged (fused optimizers must say that they changed it:
    ``torch.autograd.graph.increment_version``); a trainer that can afford masks a few steps old
    passes ``hold=True`` and calls :meth:`clear` at fixed steps, which keeps training a function of
    the step and not of what was called before.

    Args:
        hold: keep masks although the weight changes, until :meth:`clear`.
    """

    def __init__(self, hold: bool = False) -> None:
        self.hold = hold
        self._slices: dict[tuple[int, int, int, str, int, int], _Slice] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._slices.clear()

    def mask(
        self, weight: Tensor, out_features: int, in_features: int, sparsity: Sparsity
    ) -> Tensor:
        """Mask of ``weight[:out_features, :in_features]``: bool, True where a weight is kept."""
        return self._mask(
            self._slice(weight, out_features, in_features, sparsity),
            weight,
            out_features,
            in_features,
            sparsity,
        )

    def apply(
        self, weight: Tensor, out_features: int, in_features: int, sparsity: Sparsity
    ) -> Tensor:
        """The leading slice of ``weight`` with dropped weights set to zero; differentiable in the kept ones."""
        entry = self._slice(weight, out_features, in_features, sparsity)
        part = weight[:out_features, :in_features]
        mask = self._mask(entry, weight, out_features, in_features, sparsity)
        if torch.is_grad_enabled() and weight.requires_grad:
            return part * mask
        if entry.state != _state(weight):  # held while training: a masked copy would be stale
            return part * mask
        if sparsity not in entry.masked:
            entry.masked[sparsity] = part.detach() * mask
        return entry.masked[sparsity]

    def _slice(
        self, weight: Tensor, out_features: int, in_features: int, sparsity: Sparsity
    ) -> _Slice:
        key = (id(weight), out_features, in_features, sparsity.pattern, sparsity.size, sparsity.m)
        entry = self._slices.get(key)
        state = _state(weight)
        if entry is None or (not self.hold and entry.state != state):
            with torch.inference_mode(False):  # a cached rank must serve training as well
                part = weight.detach()[:out_features, :in_features]
                entry = _Slice(weight, state, group_rank(part, sparsity))
            self._slices[key] = entry
        return entry

    def _mask(
        self, entry: _Slice, weight: Tensor, out_features: int, in_features: int, sparsity: Sparsity
    ) -> Tensor:
        if sparsity not in entry.masks:
            with torch.inference_mode(False):
                shape = (out_features, in_features)
                entry.masks[sparsity] = mask_from_rank(entry.rank, sparsity, shape)
        return entry.masks[sparsity]


def _state(weight: Tensor) -> tuple[int, int]:
    """What changes when the weight does: the count of in-place changes, and where its memory lies."""
    return weight._version, weight.data_ptr()
