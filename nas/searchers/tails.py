"""Bad values that are as good as any other bad value: where exactly they lie tells nothing about the front.

A broken architecture can be a hundred thousand times worse than the others. A model that has to explain it explains nothing else.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
_TAIL = 8.0  # interquartile ranges above the median


def without_tail(y_n: FloatArray) -> FloatArray:
    """Values with those far above the bulk moved down to 8 interquartile ranges above the median."""
    low, middle, high = np.quantile(y_n, [0.25, 0.5, 0.75])
    return np.minimum(y_n, middle + _TAIL * (high - low)) if high > low else y_n


def near_reference(y_n: FloatArray, ref: float) -> FloatArray:
    """Values with those that are farther beyond the reference than the best lies within it moved down to that distance.

    Args:
        y_n: values of an objective; NaN where it was not told.
        ref: worst value that still counts; infinite where all do.
    """
    best = float(np.nanmin(y_n)) if np.isfinite(y_n).any() else ref
    return np.minimum(y_n, 2.0 * ref - best) if best < ref else y_n
