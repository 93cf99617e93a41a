"""Masks of a sparsity pattern: score the groups of a weight, rank them, keep the best.

The rank of a group does not depend on the level, so masks of one pattern are nested: a weight kept at 80 % is kept at 50 %.

Notation: a weight is ``[M, K]`` (out, in features); its groups form ``[S, G]``: S sets, within each of which G groups compete
(see :mod:`search_spaces.sparsity`): unstructured S=1, G=M K; block S=1, G=(M/B)(K/B); vector S=M/V, G=K; N:M S=M K/m, G=m.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nas.kernels.chunks import row_chunks
from search_spaces import Sparsity


def group_scores(saliency: Tensor, sparsity: Sparsity) -> Tensor:
    """Sum the saliency of every group.

    Args:
        saliency: ``[M, K]``, not negative; squared weights for magnitude pruning (a group's score
            is then its squared L2 norm).
        sparsity: the pattern; its level is not used.

    Returns:
        Scores ``[S, G]``.

    Raises:
        ValueError: if the pattern does not divide the shape.
    """
    rows, columns = saliency.shape
    sparsity.check_shape(rows, columns)
    size = sparsity.size
    if sparsity.pattern == "block":
        blocks = saliency.reshape(rows // size, size, columns // size, size)
        return blocks.sum(dim=(1, 3)).reshape(1, -1)
    if sparsity.pattern == "vector":
        return saliency.reshape(rows // size, size, columns).sum(dim=1)
    if sparsity.pattern == "n:m":
        return saliency.reshape(-1, sparsity.m)
    return saliency.reshape(1, -1)


def group_rank(weight: Tensor, sparsity: Sparsity) -> Tensor:
    """Rank of every group by magnitude, 0 for the largest; ties go to the lower index.

    Args:
        weight: ``[M, K]``.
        sparsity: the pattern; its level is not used.

    Returns:
        int32 ``[S, G]``.
    """
    scores = group_scores(weight.detach().float().square(), sparsity)
    sets, groups = scores.shape
    # Groups of m are tiny: count who is ahead instead of sorting M K / m short rows.
    if sparsity.pattern == "n:m":
        members = scores.T.contiguous()
        rank = torch.zeros(members.shape, dtype=torch.uint8, device=scores.device)
        for j in range(1, groups):
            is_ahead = members[j] > members[:j]  # an earlier one stays ahead of its equal
            rank[:j] += is_ahead
            rank[j] += (~is_ahead).sum(dim=0, dtype=torch.uint8)
        return rank.T.to(torch.int32, memory_format=torch.contiguous_format)
    # NumPy's vectorized sort is several times faster than torch's here.
    if scores.device.type == "cpu":
        order = torch.from_numpy(np.argsort(-scores.numpy(), axis=1, kind="stable"))
    else:
        order = torch.argsort(scores, dim=1, descending=True, stable=True)
    positions = torch.arange(groups, dtype=torch.int32, device=scores.device).expand(sets, groups)
    return torch.empty_like(scores, dtype=torch.int32).scatter_(1, order, positions)


def mask_from_rank(rank: Tensor, sparsity: Sparsity, shape: tuple[int, int]) -> Tensor:
    """Keep the groups whose rank is below the number the level keeps.

    Args:
        rank: ``[S, G]`` of :func:`group_rank`.
        sparsity: pattern and level.
        shape: ``(M, K)`` of the weight.

    Returns:
        bool ``[M, K]``, True where the weight is kept.
    """
    rows, columns = shape
    kept = rank < (sparsity.n if sparsity.pattern == "n:m" else sparsity.num_kept(rows, columns))
    size = sparsity.size
    if sparsity.pattern == "block":
        blocks = kept.reshape(rows // size, 1, columns // size, 1)
        return blocks.expand(-1, size, -1, size).reshape(rows, columns)
    if sparsity.pattern == "vector":
        return kept[:, None, :].expand(-1, size, -1).reshape(rows, columns)
    return kept.reshape(rows, columns)


def magnitude_mask(weight: Tensor, sparsity: Sparsity) -> Tensor:
    """Mask that keeps the groups of largest L2 norm (Han et al., 1506.02626, for single weights).

    Args:
        weight: ``[M, K]``.
        sparsity: pattern and level.

    Returns:
        bool ``[M, K]``, True where the weight is kept; exactly ``sparsity.nonzeros(M, K)`` are.
    """
    rows, columns = weight.shape
    mask = torch.ones(rows, columns, dtype=torch.bool, device=weight.device)
    if sparsity.pattern == "unstructured":  # one set of all weights: selected, not sorted
        return _keep_largest(weight.detach(), sparsity.num_kept(rows, columns), mask)
    if sparsity.pattern == "n:m":  # groups know nothing of one another
        sparsity.check_shape(rows, columns)
        for chunk in row_chunks(rows, columns):
            part = weight[chunk]
            rank = group_rank(part, sparsity)
            mask[chunk] = mask_from_rank(rank, sparsity, (part.shape[0], columns))
        return mask
    if sparsity.is_dense:
        return mask
    return mask_from_rank(group_rank(weight, sparsity), sparsity, (rows, columns))


def _keep_largest(weight: Tensor, number: int, mask: Tensor) -> Tensor:
    """Mask of the ``number`` largest weights, ties to the lower index: what ranks would keep, without sorting.

    The square of the last weight kept is found from two counts, of the upper and of the lower half
    of its bits: floats that are not negative are ordered as their bits are.
    """
    chunks = list(row_chunks(weight.shape[0], weight.shape[1]))
    upper = torch.zeros(2**16, dtype=torch.int64, device=weight.device)
    for chunk in chunks:
        upper += torch.bincount(_keys(weight[chunk]) >> 16, minlength=2**16)
    half, above = _last_kept(upper, number)
    lower = torch.zeros_like(upper)
    for chunk in chunks:
        keys = _keys(weight[chunk])
        lower += torch.bincount(keys[keys >> 16 == half] & 0xFFFF, minlength=2**16)
    rest, over = _last_kept(lower, number - above)
    last = (half << 16) + rest
    ties = number - above - over
    for chunk in chunks:
        keys = _keys(weight[chunk])
        kept = keys > last
        equal = (keys == last).nonzero()[:ties, 0]
        kept[equal] = True
        ties -= len(equal)
        mask[chunk] = kept.view_as(mask[chunk])
    return mask


def _keys(weight: Tensor) -> Tensor:
    """int32 in the order of the squared weights, flattened; 0 for NaN, which a sort puts last."""
    squares = weight.float().square().flatten()
    return torch.where(squares.isnan(), 0, squares.view(torch.int32) + 1)


def _last_kept(counts: Tensor, number: int) -> tuple[int, int]:
    """Largest bin that the ``number``-th largest entry can be in, and how many entries are in the bins above."""
    at_least = counts.flip(0).cumsum(0).flip(0)
    last = int((at_least >= number).sum()) - 1
    return last, int(at_least[last] - counts[last])
