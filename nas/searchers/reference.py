"""The reference point of a study that was not given one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def default_ref_point(Y_nm: npt.ArrayLike) -> FloatArray:
    """The worst value of each objective among the first trials of a study, plus a tenth of its range.

    Worse than every point seen at the start, so that each of them counts, and fixed from then on, so that hypervolumes of one study
    compare.

    Args:
        Y_nm: values of the trials that the random start proposed, minimized.

    Raises:
        ValueError: if there is no point.
    """
    Y = np.asarray(Y_nm, dtype=np.float64)
    if Y.ndim != 2 or len(Y) == 0:
        raise ValueError(f"expected one point or more as an (n, m) matrix, got shape {Y.shape}")
    worst, best = Y.max(axis=0), Y.min(axis=0)
    size = np.maximum(np.abs(worst), 1.0)
    margin = np.where(worst > best, np.maximum(0.1 * (worst - best), 1e-9 * size), 0.1 * size)
    return np.asarray(worst + margin)
