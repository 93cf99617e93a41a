"""Exclusive hypervolume contributions: what each point alone dominates. Everything is minimized.

Space is cut into the cells of the grid of the points' values; the best and the second best value of the last objective over a cell
bound the part that only the best point dominates there. Only positive terms are added, as for the hypervolume itself.

n points, m objectives.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from surrogates.base import FloatArray
from surrogates.dominance.points import points_below


def hypervolume_contributions(Y_nm: npt.ArrayLike, ref_point_m: npt.ArrayLike) -> FloatArray:
    """How much hypervolume each point adds to all others: the hypervolume with it less that without it.

    Args:
        Y_nm: n points, m objectives, in any order. Dominated points count as others: what a front's point shares with a point
            that it dominates is not its own. To judge a front, pass its members only.
        ref_point_m: the worst values that still count.

    Returns:
        Contributions of shape (n,): 0 for points that are dominated, repeated, or not below ``ref_point_m``. The cost is n^(m-1)
        array elements for three objectives on, n log n for two.

    Raises:
        ValueError: if a value is not finite or the shapes disagree.
    """
    points, ref, inside = points_below(Y_nm, ref_point_m)
    contributions = np.zeros(len(points))
    if inside.any():
        contributions[inside] = _contributions(points[inside], ref)
    return contributions


def _contributions(points_nm: FloatArray, ref_m: FloatArray) -> FloatArray:
    n, m = points_nm.shape
    found = np.zeros(n)
    if m == 1:
        best, *others = np.sort(np.append(points_nm[:, 0], ref_m[0]))
        found[np.argmin(points_nm[:, 0])] = others[0] - best
        return found
    if m == 3:
        return _rows(points_nm, ref_m)
    along = 0 if m == 2 else m - 1
    order = np.argsort(points_nm[:, along], kind="stable")
    ordered = points_nm[order]
    widths = np.diff(ordered[:, along], append=ref_m[along])
    if m == 2:
        return _steps(ordered[:, 1], widths, order, float(ref_m[1]))
    for i in np.flatnonzero(widths):
        found[order[: i + 1]] += widths[i] * _contributions(ordered[: i + 1, :-1], ref_m[:-1])
    return found


def _steps(
    y_n: FloatArray, widths_n: FloatArray, order_n: npt.NDArray[np.int64], ref: float
) -> FloatArray:
    """Two objectives: over each step along the first, what lies between the least and the second least of the second."""
    found = [0.0] * len(y_n)
    best, second, owner = ref, ref, 0
    for y, width, point in zip(y_n.tolist(), widths_n.tolist(), order_n.tolist(), strict=True):
        if y < best:
            best, second, owner = y, best, point
        else:
            second = min(second, y)
        found[owner] += width * (second - best)
    return np.array(found)


def _rows(points_n3: FloatArray, ref_3: FloatArray) -> FloatArray:
    """Three objectives: row by row along the first, the cells of the second keep the best and second best of the third."""
    n = len(points_n3)
    order = np.argsort(points_n3[:, 0], kind="stable")
    widths = np.diff(points_n3[order, 0], append=ref_3[0])
    axis, first_cell = np.unique(points_n3[:, 1], return_inverse=True)
    depths = np.diff(axis, append=ref_3[1])
    best, second = np.full(len(axis), ref_3[2]), np.full(len(axis), ref_3[2])
    owner = np.zeros(len(axis), dtype=np.int64)
    found = np.zeros(n)
    for point, width in zip(order, widths, strict=True):
        z = points_n3[point, 2]
        cells = slice(first_cell[point], None)
        np.minimum(second[cells], np.maximum(best[cells], z), out=second[cells])
        owner[cells][z < best[cells]] = point
        np.minimum(best[cells], z, out=best[cells])
        if width:
            found += width * np.bincount(owner, weights=(second - best) * depths, minlength=n)
    return found
