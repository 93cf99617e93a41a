"""The region that a set of points does not dominate, as disjoint boxes: what the improvement of a hypervolume is measured in.

Everything is minimized. Notation: k points, m objectives, b boxes. A box is [lower, upper); lower may be -inf.  A new point y
adds, inside a box, the volume prod_j max(0, upper_j - max(y_j, lower_j)), and the sum over the boxes is its exact hypervolume
improvement (Daulton et al. 2020, 2006.05078, eq. 4-5, where it is written for maximization).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Boxes = tuple[FloatArray, FloatArray]  # lower_bm, upper_bm


def non_dominated_boxes(Y_km: FloatArray, ref_point_m: FloatArray) -> Boxes:
    """Decompose the part of the space below ``ref_point_m`` that no point dominates.

    At most 2k + 1 boxes for m <= 3 (a sweep that keeps the staircase of the first two objectives as a list of strips; the idea of
    Lacour et al. 2017, sec. 3, for three objectives); for m >= 4 slabs between consecutive values of the last objective.

    Args:
        Y_km: points; those not below ``ref_point_m`` in every objective do not matter.
        ref_point_m: the worst values that still count.

    Returns:
        Bounds (lower_bm, upper_bm) of disjoint boxes.
    """
    Y = Y_km[np.all(Y_km < ref_point_m, axis=1)]
    m = len(ref_point_m)
    if m == 1:
        upper = min([float(ref_point_m[0]), *Y[:, 0].tolist()])
        return np.array([[-np.inf]]), np.array([[upper]])
    if m == 2:
        # a third objective in which every point is equally good leaves the strips of the staircase
        lower, upper_ = _sweep(np.c_[Y, np.zeros(len(Y))], np.append(ref_point_m, 1.0))
        strips = upper_[:, 2] > 0.0
        return lower[strips, :2], upper_[strips, :2]
    return _sweep(Y, ref_point_m) if m == 3 else _slabs(Y, ref_point_m)


def _sweep(Y: FloatArray, ref: FloatArray) -> Boxes:
    """Three objectives: add the points in order of the third, closing the boxes each of them cuts."""
    infinity = float("inf")
    # lower_1, lower_3, upper_1, upper_2, upper_3
    boxes: list[tuple[float, float, float, float, float]] = []
    # Strips of the region left free so far: [left, right) in objective 1, below height in objective 2, open since start.
    everything = (-infinity, float(ref[0]), float(ref[1]), -infinity)
    strips: list[tuple[float, float, float, float]] = [everything]
    order = np.lexsort(Y.T)  # by the third objective, ties by the second, then the first
    for y1, y2, y3 in Y[order].tolist():
        first = 0
        while first < len(strips) and strips[first][1] <= y1:
            first += 1
        last = first  # heights fall from left to right, so the strips that are cut are neighbors
        while last < len(strips) and strips[last][2] > y2:
            last += 1
        if last == first:
            continue  # dominated
        for left, right, height, start in strips[first:last]:
            if start < y3:
                boxes.append((left, start, right, height, y3))
        new = [(y1, strips[last - 1][1], y2, y3)]
        if strips[first][0] < y1:
            left, _, height, start = strips[first]
            new.insert(0, (left, y1, height, y3))
        strips[first:last] = new
    boxes += [
        (left, start, right, height, float(ref[2]))
        for left, right, height, start in strips
        if start < ref[2]
    ]
    table = np.array(boxes)
    lower = np.stack([table[:, 0], np.full(len(table), -infinity), table[:, 1]], axis=1)
    return lower, table[:, 2:5]


def _slabs(Y: FloatArray, ref: FloatArray) -> Boxes:
    """Four objectives or more: between two consecutive values of the last one, the boxes of the points below."""
    Y = Y[np.argsort(Y[:, -1], kind="stable")]
    levels = np.unique(Y[:, -1])
    starts, ends = np.append(-np.inf, levels), np.append(levels, ref[-1])
    lowers, uppers = [], []
    for start, end in zip(starts, ends, strict=True):
        lower, upper = non_dominated_boxes(Y[Y[:, -1] <= start, :-1], ref[:-1])
        lowers.append(np.c_[lower, np.full(len(lower), start)])
        uppers.append(np.c_[upper, np.full(len(upper), end)])
    return np.concatenate(lowers), np.concatenate(uppers)
