"""The region that would improve the front, as boxes: below the reference point and not dominated by what is believed of told points.

The values of the front are medians of the beliefs, not the told ones: where observations are noisy, a lucky one would otherwise stand
in the way of every better point, and a smooth belief loses nothing where they are not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas.pareto import non_dominated_mask
from nas.searchers.boxes import non_dominated_boxes

FloatArray = npt.NDArray[np.float64]
# The boxes of m objectives grow with the front; a thinner one costs less than it loses.
_MOST_OF_FRONT = {1: 1, 2: 150, 3: 60, 4: 30}


@dataclass(frozen=True, eq=False)
class Region:
    """Boxes that a new point can add, and where the front lies.

    Args:
        lower_bm: lower bounds; may be minus infinity.
        upper_bm: upper bounds.
        front: rows of the points that are on the front.
    """

    lower_bm: FloatArray
    upper_bm: FloatArray
    front: npt.NDArray[np.int64]


def region_of(Y_nm: FloatArray, ref_point_m: FloatArray) -> Region:
    """The region that points with values Y leave open.

    Args:
        Y_nm: believed values of the feasible points; may be empty.
        ref_point_m: worst values that still count.
    """
    if not len(Y_nm):
        lower, upper = non_dominated_boxes(np.empty((0, len(ref_point_m))), ref_point_m)
        return Region(lower, upper, np.zeros(0, dtype=np.int64))
    front = np.flatnonzero(non_dominated_mask(Y_nm))
    most = _MOST_OF_FRONT.get(len(ref_point_m), 20)
    if len(front) > most:  # evenly along the first objective
        order = front[np.argsort(Y_nm[front, 0], kind="stable")]
        front = order[np.linspace(0, len(order) - 1, most).round().astype(np.int64)]
    lower, upper = non_dominated_boxes(Y_nm[front], ref_point_m)
    return Region(lower, upper, front)
