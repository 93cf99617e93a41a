"""What a study has been told, as arrays a model can take.

n told points, d parameters, m objectives, r running and f failed trials.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas.pareto import non_dominated_mask
from nas.searchers.tails import near_reference

FloatArray = npt.NDArray[np.float64]
_LARGEST = 1e100  # magnitude beyond which a value is no measurement


@dataclass(frozen=True, eq=False)
class History:
    """What a study has been told, in the order in which its trials ended; everything is minimized.

    Args:
        X_nd: canonical points.
        Y_nm: finite values.
        feasible_n: which points keep to all constraints.
        constraints: name to value at each point, NaN where it was not told; a value of zero or less is kept to.
        running_rd: canonical points of running trials.
        failed_fd: canonical points of trials that were told as failed.
        sign_m: 1 for objectives that the study minimizes, -1 for others.
        ref_point_m: worst values that still count.
    """

    X_nd: FloatArray
    Y_nm: FloatArray
    feasible_n: npt.NDArray[np.bool_]
    constraints: Mapping[str, FloatArray]
    running_rd: FloatArray
    failed_fd: FloatArray
    sign_m: FloatArray
    ref_point_m: FloatArray

    def __len__(self) -> int:
        return len(self.X_nd)

    @property
    def num_objectives(self) -> int:
        """How many objectives the study has."""
        return len(self.sign_m)


def finite(Y_nm: FloatArray) -> FloatArray:
    """Infinite values (a failed evaluation told as such) replaced by the worst and best finite ones of their objective.

    So are those whose squares are too large for a float: the greatest float is a common way to tell a failure.
    """
    masked = np.where(np.abs(Y_nm) < _LARGEST, Y_nm, np.nan)
    bounded = np.where(np.all(np.isnan(masked), axis=0), 0.0, masked)
    return np.asarray(np.clip(Y_nm, np.nanmin(bounded, axis=0), np.nanmax(bounded, axis=0)))


def bounded_excess(excess_n: FloatArray) -> FloatArray:
    """Values of a constraint, kept at zero or less, without those that say no more than that it is violated.

    Infinities, greatest floats and penalties become violations as large as the largest slack: a model of the constraint is wanted at its
    boundary. NaN stays: it was not told.
    """
    usable = np.abs(excess_n) < _LARGEST
    kept = excess_n[usable & (excess_n <= 0.0)]
    violated = excess_n[usable & (excess_n > 0.0)]
    slack = -float(kept.min()) if len(kept) and kept.min() < 0.0 else None
    most = slack or (float(violated.max()) if len(violated) else 1.0)
    least = -(slack or (float(violated.min()) if len(violated) else 1.0))
    with np.errstate(invalid="ignore"):
        bounded = np.where(
            excess_n >= _LARGEST, most, np.where(excess_n <= -_LARGEST, least, excess_n)
        )
    return near_reference(bounded, 0.0)


def best_by_rank(Y_nm: FloatArray, count: int) -> npt.NDArray[np.int64]:
    """Indices of whole non-dominated layers, best first, cut at ``count``; sorted."""
    left, chosen = np.arange(len(Y_nm)), np.zeros(0, dtype=np.int64)
    while len(chosen) < count and len(left):
        mask = non_dominated_mask(Y_nm[left])
        chosen, left = np.concatenate([chosen, left[mask]]), left[~mask]
    return np.sort(chosen[:count])


def telling_rows(Y_nm: FloatArray, most: int) -> npt.NDArray[np.int64]:
    """Told points that a model of bounded size is given: the best by Pareto rank, the latest, and an even spread over the study."""
    n = len(Y_nm)
    if n <= most:
        return np.arange(n)
    rows = set(best_by_rank(Y_nm, most // 2).tolist()) | set(range(n - most // 6, n))
    for i in np.linspace(0, n - 1, 2 * most).round().astype(int).tolist():
        if len(rows) >= most:
            break
        rows.add(i)
    return np.array(sorted(rows))
