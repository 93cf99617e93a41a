"""Expected hypervolume improvement of a point with one uncertain objective, exactly."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nas.pareto.partial_expectation import partial_expectation
from surrogates.dominance import hypervolume

FloatArray = npt.NDArray[np.float64]


def expected_improvement(
    front_nm: FloatArray,
    ref_m: FloatArray,
    values_m: FloatArray,
    column: int,
    mean: float,
    std: float,
) -> float:
    """Hypervolume that a point is expected to add to a front, when one of its objectives is log-normal and the others are known.

    Let ``area(q)`` be the volume, in the other objectives, of what the point dominates and no member whose uncertain objective is at
    most q does. A point of value p adds the integral of ``area`` from p to the reference point, and ``area`` is constant between the
    members' values, so the expectation is a sum of differences of ``E[(q - p)+]``, which has a closed form for a log-normal p (it is
    that of a put option: Black & Scholes, 1973, J. Political Economy 81(3)). In the spirit of Emmerich et al., 2011 (CEC), EHVI over cells.

    Args:
        front_nm: n known points, m >= 2 objectives, minimized, in any order.
        ref_m: worst values that still count.
        values_m: of the point; entry ``column`` is not read.
        column: of the uncertain objective, which is positive.
        mean: of its logarithm.
        std: of its logarithm, positive.

    Returns:
        The expected gain, in the product of the objectives' units; 0 beyond the reference point.
    """
    others = np.delete(values_m, column)
    ref_others, ref = np.delete(ref_m, column), float(ref_m[column])
    if not np.all(others < ref_others) or ref <= 0.0:
        return 0.0
    inside = np.all(front_nm < ref_m, axis=1)
    front = front_nm[inside]
    front = front[np.argsort(front[:, column], kind="stable")]
    edges = np.append(np.unique(front[:, column]), ref)
    # Of a member only the part beside the point counts: what it dominates of the point's own box.
    clipped = np.maximum(np.delete(front, column, axis=1), others)
    counts = np.searchsorted(front[:, column], edges[:-1], side="right")
    areas = [float(np.prod(ref_others - others))]
    for count in counts:
        area = areas[0] - _volume(clipped[:count], ref_others)
        if area <= 1e-12 * areas[0]:  # dominated for every larger value as well
            edges = edges[: len(areas)]
            break
        areas.append(area)
    strikes = edges[: len(areas)]
    puts = partial_expectation(strikes, np.array([mean]), np.array([std]), is_log=True)[0]
    return float(np.dot(areas, np.diff(puts, prepend=0.0)))


def _volume(points_nm: FloatArray, ref_m: FloatArray) -> float:
    """Hypervolume of points that are nowhere beyond ``ref_m``; one and two objectives without the checks, which are slower than it."""
    if len(points_nm) == 0:
        return 0.0
    if len(ref_m) == 1:
        return float(ref_m[0] - points_nm[:, 0].min())
    if len(ref_m) > 2:
        return float(hypervolume(points_nm, ref_m))
    points = points_nm[np.argsort(points_nm[:, 0], kind="stable")]
    widths = np.diff(np.append(points[:, 0], ref_m[0]))
    return float(widths @ (ref_m[1] - np.minimum.accumulate(points[:, 1])))
