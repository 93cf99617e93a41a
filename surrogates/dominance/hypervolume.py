"""Exact hypervolume of arrays. Everything is minimized.

The hypervolume is the volume of the part of the space that some point dominates and that dominates ``ref_point`` (Zitzler & Thiele 1999).
All methods add positive terms only, so that nothing cancels: of integers it comes out exact, as long as it is below 2^53.

n points, m objectives.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from math import inf

import numpy as np
import numpy.typing as npt

from surrogates.base import FloatArray
from surrogates.dominance.points import point_matrix, points_below


class Hypervolume(float):
    """A hypervolume, usable as the number it is, that also tells what it does not count.

    Attributes:
        num_beyond: points that exceed ``ref_point`` in some objective and so add nothing.
        num_clipped: points that were better than the ideal in some objective and were moved onto it
            (only when normalized).
    """

    num_beyond: int
    num_clipped: int

    def __new__(cls, volume: float, num_beyond: int = 0, num_clipped: int = 0) -> Hypervolume:
        value = super().__new__(cls, volume)
        value.num_beyond = num_beyond
        value.num_clipped = num_clipped
        return value

    def __getnewargs__(self) -> tuple[float, int, int]:  # type: ignore[override]  # copies keep the counts
        return float(self), self.num_beyond, self.num_clipped


def hypervolume(Y_nm: npt.ArrayLike, ref_point_m: npt.ArrayLike) -> Hypervolume:
    """Exact hypervolume of points that are minimized, meant for 2 to 4 objectives.

    Two objectives are swept in n log n. Three too: from the best to the worst value of the third, with the area that the points so far
    dominate in the first two kept as a staircase (Fonseca, Paquete & Lopez-Ibanez 2006, CEC, sec. III). From four on, the slabs
    between consecutive values of the last objective are summed (HSO, While et al. 2006, IEEE TEC 10(1), sec. IV): n^2 log n for four.

    Args:
        Y_nm: n points, m objectives, in any order; dominated and repeated points are allowed.
        ref_point_m: the worst values that still count.

    Returns:
        The volume, with ``num_beyond``: the points that exceed ``ref_point_m`` somewhere (a point
        on it does not).

    Raises:
        ValueError: if a value is not finite or the shapes disagree.
    """
    points, ref, inside = points_below(Y_nm, ref_point_m)
    beyond = int(np.any(points > ref, axis=1).sum())
    return Hypervolume(volume_below(points[inside], ref), beyond)


def normalized_hypervolume(
    Y_nm: npt.ArrayLike, ideal_m: npt.ArrayLike, ref_point_m: npt.ArrayLike
) -> Hypervolume:
    """Hypervolume as a share of the box from ``ideal_m`` to ``ref_point_m``, in [0, 1].

    Args:
        Y_nm: n points, m objectives, minimized.
        ideal_m: the best value of each objective; points better than it are moved onto it and
            counted in ``num_clipped``.
        ref_point_m: the worst values that still count.

    Raises:
        ValueError: if a value is not finite, the shapes disagree, or the ideal is not below
            ``ref_point_m`` everywhere.
    """
    points = point_matrix(Y_nm)
    ideal, ref = np.asarray(ideal_m, dtype=np.float64), np.asarray(ref_point_m, dtype=np.float64)
    if ideal.shape != ref.shape or ideal.ndim != 1 or not np.all(ideal < ref):
        raise ValueError(
            f"expected an ideal below ref_point in every objective, got {ideal.tolist()} and {ref.tolist()}"
        )
    if len(points) == 0:
        return Hypervolume(0.0)
    if points.shape[1] != len(ref):
        raise ValueError(
            f"expected a ref_point with {points.shape[1]} values like the points, got {len(ref)}"
        )
    scaled = (np.maximum(points, ideal) - ideal) / (ref - ideal)
    # The division may round a point just beyond ref_point onto 1, so the count is made on the raw values.
    volume = hypervolume(scaled, np.ones(len(ref)))
    beyond, clipped = (
        int(np.any(points > ref, axis=1).sum()),
        int(np.any(points < ideal, axis=1).sum()),
    )
    return Hypervolume(min(1.0, float(volume)), beyond, clipped)


def volume_below(points_nm: FloatArray, ref_m: FloatArray) -> float:
    """Hypervolume of points that are below ``ref_m`` in every objective, which is not checked."""
    n, m = points_nm.shape
    if n == 0:
        return 0.0
    if n == 1 or m == 1:
        return float(np.prod(ref_m - points_nm.min(axis=0)))
    if m == 2:
        return _area(points_nm, ref_m)
    order = np.argsort(points_nm[:, -1], kind="stable")
    if m == 3:
        return _sweep(points_nm[order].tolist(), ref_m.tolist())
    if m == 4:
        return _slabs(points_nm[order].tolist(), ref_m.tolist())
    ordered = points_nm[order]
    heights = np.diff(ordered[:, -1], append=ref_m[-1])
    slabs = (
        volume_below(ordered[: i + 1, :-1], ref_m[:-1]) * height
        for i, height in enumerate(heights)
        if height
    )
    return float(sum(slabs))


def _area(points_n2: FloatArray, ref_2: FloatArray) -> float:
    """Over each step from one first objective to the next, the height is the least second objective so far."""
    ordered = points_n2[np.argsort(points_n2[:, 0], kind="stable")]
    widths = np.diff(ordered[:, 0], append=ref_2[0])
    return float(widths @ (ref_2[1] - np.minimum.accumulate(ordered[:, 1])))


def _sweep(ordered: Sequence[Sequence[float]], ref: Sequence[float]) -> float:
    """Three objectives, points in the order of the third: the area dominated so far, times the way to the next point."""
    # The staircase of the first two objectives, x rising and y falling; the outer two entries bound it.
    xs, ys = [-inf, ref[0]], [ref[1], -inf]
    volume = area = 0.0
    reached = ref[2]
    for x, y, z in ordered:
        low = bisect_left(xs, x)
        top = ys[low - 1]
        if top <= y or (xs[low] == x and ys[low] <= y):
            continue
        volume += area * (z - reached) if area else 0.0
        reached = z
        high, left = low, x
        while ys[high] >= y:  # steps that the point covers
            area += (xs[high] - left) * (top - y)
            left, top = xs[high], ys[high]
            high += 1
        area += (xs[high] - left) * (top - y)
        xs[low:high], ys[low:high] = [x], [y]
    return volume + area * (ref[2] - reached)


def _slabs(ordered: Sequence[Sequence[float]], ref: Sequence[float]) -> float:
    """Four objectives, points in the order of the fourth: the volume of those so far in the first three, times the way to the next."""
    by_third: list[
        tuple[float, float, float]
    ] = []  # (z, x, y) of points that no other so far covers
    total = volume = 0.0
    reached, is_new = ref[3], False
    for x, y, z, w in ordered:
        if any(c <= z and a <= x and b <= y for c, a, b in by_third):
            continue
        if w > reached:
            if is_new:
                volume = _sweep([(a, b, c) for c, a, b in by_third], ref)
                is_new = False
            total += volume * (w - reached)
        by_third = [p for p in by_third if p[0] < z or p[1] < x or p[2] < y]
        insort(by_third, (z, x, y))
        reached, is_new = w, True
    if is_new:
        volume = _sweep([(a, b, c) for c, a, b in by_third], ref)
    return total + volume * (ref[3] - reached)
