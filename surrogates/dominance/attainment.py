"""Empirical attainment: which part of the objective space what share of runs reaches (Fonseca & Fleming 1996, PPSN IV, sec. 3).

A run attains a point when something it found is nowhere worse. The k-th attainment surface bounds what at least k of s runs attain:
the first is what the luckiest runs reach together, the last what every run reaches, the middle one the typical run.

s runs, p points, m objectives, c corners.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from surrogates.base import FloatArray
from surrogates.dominance.points import point_matrix
from surrogates.dominance.sorting import non_dominated_mask

_CELLS = 2**22  # comparisons at once


def attainment_surface(runs: Sequence[npt.ArrayLike], k: int) -> FloatArray:
    """The k-th attainment surface of two objectives, exactly.

    Args:
        runs: values of each run, shape (n, 2) each, minimized; dominated ones are allowed, and a run may have found nothing.
        k: runs that have to attain a point, from 1 to s.

    Returns:
        Corners of the surface, shape (c, 2), sorted by the first objective, none dominated: at ``x`` or less, at least k runs
        have ``y`` or less. No corners if fewer than k runs found anything.

    Raises:
        ValueError: if there are not two objectives, no run, ``k`` is not from 1 to s, or a value is not finite.
    """
    fronts = _fronts(runs)
    if any(front.shape[1] != 2 for front in fronts):
        raise ValueError(
            f"expected two objectives, got {max(f.shape[1] for f in fronts)}; "
            "of more, ask attained_share which points are attained"
        )
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= len(fronts):
        raise ValueError(f"expected k from 1 to the {len(fronts)} runs, got {k!r}")
    x_c = np.unique(np.concatenate([front[:, 0] for front in fronts]))
    least_sc = np.full((len(fronts), len(x_c)), np.inf)
    for reached_c, front in zip(least_sc, fronts, strict=True):
        np.minimum.at(reached_c, np.searchsorted(x_c, front[:, 0]), front[:, 1])
    np.minimum.accumulate(least_sc, axis=1, out=least_sc)
    y_c = np.partition(least_sc, k - 1, axis=0)[k - 1]
    surface = np.column_stack([x_c, y_c])[np.isfinite(y_c)]
    corners: FloatArray = surface[non_dominated_mask(surface)]
    return corners


def attained_share(runs: Sequence[npt.ArrayLike], points_pm: npt.ArrayLike) -> FloatArray:
    """The empirical attainment function at given points: the share of runs that attain each.

    Args:
        runs: values of each run, shape (n, m) each, minimized; a run may have found nothing.
        points_pm: where to evaluate it, any number of objectives.

    Returns:
        Shares in [0, 1], shape (p,). A point is on or behind the k-th attainment surface exactly when its share is k / s or more.

    Raises:
        ValueError: if there is no run, a value is not finite, or the shapes disagree.
    """
    fronts, points = _fronts(runs), point_matrix(points_pm)
    m = points.shape[1]
    count_p = np.zeros(len(points))
    for front in fronts:
        if not len(front) or not len(points):
            continue
        if front.shape[1] != m:
            raise ValueError(
                f"expected runs of {m} objectives like the points, got {front.shape[1]}"
            )
        block = max(_CELLS // (len(front) * m), 1)
        for start in range(0, len(points), block):
            part = points[start : start + block]
            attained = np.all(front[None, :, :] <= part[:, None, :], axis=2).any(axis=1)
            count_p[start : start + block] += attained
    return count_p / len(fronts)


def _fronts(runs: Sequence[npt.ArrayLike]) -> list[FloatArray]:
    """The non-dominated values of each run, with the objectives of the others where it has none."""
    values = [point_matrix(run) for run in runs]
    if not values:
        raise ValueError("expected one run or more, got none")
    m = max(v.shape[1] for v in values)
    if any(len(v) and v.shape[1] != m for v in values):
        raise ValueError(
            f"expected runs of equally many objectives, got {[v.shape[1] for v in values]}"
        )
    return [v[non_dominated_mask(v)] if len(v) else np.zeros((0, m)) for v in values]
