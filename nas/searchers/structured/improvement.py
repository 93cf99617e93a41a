"""Expected hypervolume improvement in closed form, for one to four independent objectives that are normal or log-normal.

Inside a box of the non-dominated region the volume that a point y adds is a product over objectives, so its expectation is a product of
one-dimensional integrals (Emmerich et al. 2011; Yang et al. 2019, "Efficient computation of expected hypervolume improvement"):

    E[ (upper - max(y, lower))_+ ] = psi(upper) - psi(lower),   psi(u) = E[(u - y)_+].

Everything is minimized.  c candidates, m objectives, b boxes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nas.pareto.partial_expectation import partial_expectation

FloatArray = npt.NDArray[np.float64]


def expected_improvement(
    mean_cm: FloatArray,
    std_cm: FloatArray,
    is_log_m: list[bool],
    lower_bm: FloatArray,
    upper_bm: FloatArray,
) -> FloatArray:
    """Expected hypervolume improvement of every candidate, shape (c,).

    Args:
        mean_cm: means of the objectives, or of their logarithms.
        std_cm: standard deviations of the same; positive.
        is_log_m: which objectives are log-normal.
        lower_bm: lower bounds of the boxes of the non-dominated region (nas/searchers/boxes.py), minus infinity allowed.
        upper_bm: upper bounds.
    """
    volume = np.ones((1, 1))
    for j, is_log in enumerate(is_log_m):
        both = np.concatenate([lower_bm[:, j], upper_bm[:, j]])
        level, index = np.unique(both, return_inverse=True)  # boxes share their bounds
        psi = partial_expectation(level, mean_cm[:, j], std_cm[:, j], is_log)
        side = psi[:, index[len(lower_bm) :]] - psi[:, index[: len(lower_bm)]]
        volume = volume * np.maximum(side, 0.0)
    return np.asarray(volume.sum(axis=1))
