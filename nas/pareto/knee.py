"""The knee of a front: where giving up a little of one objective stops gaining much of the others. Everything is minimized."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from surrogates.base import FloatArray
from surrogates.dominance.points import point_matrix


def knee_distances(Y_nm: npt.ArrayLike) -> FloatArray:
    """How far each point of a front bulges towards the ideal beyond the plane of the extremes.

    Every objective is brought to its range on the front, from 0 at its best to 1 at its worst. The plane is the one through the
    extremes ``(1, 0, .., 0)``, ``(0, 1, 0, ..)``, ...: best in all objectives but one. Of two objectives these are the ends of the front,
    and the distance is that of Das (1999, Structural Optimization 18(2)). From three on, Das's plane goes through the points with
    the least value of each objective; where objectives rise and fall together (latency and bytes) these points lie side by side and span no
    stable plane, so the corners of the range stand in for them, as in the intercepts of NSGA-III (Deb & Jain 2014).

    Args:
        Y_nm: n points of a front, m objectives; an objective in which they are all equal does not count.

    Returns:
        Distances in the scaled space, shape (n,): positive on the side of the ideal, at most ``(m - 1) / sqrt(m)``.

    Raises:
        ValueError: if ``Y_nm`` is not a matrix, or holds NaN or infinity.
    """
    Y = point_matrix(Y_nm)
    if not len(Y):
        return np.zeros(0)
    low, high = Y.min(axis=0), Y.max(axis=0)
    is_active = high > low
    if not is_active.any():
        return np.zeros(len(Y))
    share = (Y[:, is_active] - low[is_active]) / (high - low)[is_active]
    distances: FloatArray = (1.0 - share.sum(axis=1)) / math.sqrt(share.shape[1])
    return distances


def knee_point(Y_nm: npt.ArrayLike) -> int:
    """Row of the knee: the point of the largest :func:`knee_distances`, of equal ones the first.

    A front that bulges nowhere (its largest distance is 0 or less) has no knee in the proper sense; the row is then that of the point with
    the best sum of scaled objectives.

    Args:
        Y_nm: one point or more of a front, m objectives.

    Raises:
        ValueError: if there is no point, or a value is not finite.
    """
    distances = knee_distances(Y_nm)
    if not len(distances):
        raise ValueError("expected a front of one point or more, got none")
    # A tie must not be decided by the last bit of a sum.
    return int(np.flatnonzero(distances >= distances.max() - 1e-12)[0])
