"""Masks of a sparsity pattern: score the groups of a weight, rank them, keep the best.

The rank of a group does not depend on the level, so masks of one pattern are nested: a weight kept at 80 % is kept at 50 %.

Notation: a weight is ``[M, K]`` (out, in features); its groups form ``[S, G]``: S sets, within each of which G groups compete
(see :mod:`search_spaces.sparsity`): unstructured S=1, G=M K; block S=1, G=(M/B)(K/B); vector S=M/V, G=K; N:M S=M K/m, G=m.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

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
        ahead = scores[:, None, :] > scores[:, :, None]
        earlier = torch.ones(groups, groups, dtype=torch.bool, device=scores.device).tril(-1)
        tied = (scores[:, None, :] == scores[:, :, None]) & earlier
        return (ahead | tied).sum(dim=2, dtype=torch.int32)
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
    if sparsity.is_dense:
        return torch.ones(weight.shape, dtype=torch.bool, device=weight.device)
    shape = (weight.shape[0], weight.shape[1])
    return mask_from_rank(group_rank(weight, sparsity), sparsity, shape)
