"""Expected hypervolume improvement in closed form, for one to four independent objectives that are normal or log-normal.

Inside a box of the non-dominated region the volume that a point y adds is a product over objectives, so its expectation is a product of
one-dimensional integrals (Emmerich et al. 2011; Yang et al. 2019, "Efficient computation of expected hypervolume improvement"):

    E[ (upper - max(y, lower))_+ ] = psi(upper) - psi(lower),   psi(u) = E[(u - y)_+].

Everything is minimized.  c candidates, m objectives, b boxes.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, ndtr

FloatArray = npt.NDArray[np.float64]
_ROOT_2PI = math.sqrt(2.0 * math.pi)


def partial_expectation(
    level_l: FloatArray, mean_c: FloatArray, std_c: FloatArray, is_log: bool
) -> FloatArray:
    """psi(u) = E[(u - y)_+] at levels, shape (c, l); zero at minus infinity.

    Args:
        level_l: levels u.
        mean_c: mean of y, or of log y.
        std_c: standard deviation of y, or of log y; positive.
        is_log: whether y is log-normal (the formula of Black & Scholes 1973 for a put).
    """
    mean, std = mean_c[:, None], std_c[:, None]
    if is_log:
        with np.errstate(divide="ignore"):
            z = (np.log(np.maximum(level_l, 0.0))[None, :] - mean) / std
        put = np.maximum(level_l, 0.0)[None, :] * ndtr(z)
        shift = mean + 0.5 * std**2
        if float(shift.max()) < 300.0:
            below = np.exp(shift) * ndtr(z - std)
        else:  # E[y] may overflow where E[y; y < u] does not: a log-normal doubted a hundredfold
            below = np.exp(shift + log_ndtr(z - std))
        return np.asarray(np.maximum(put - below, 0.0))
    finite = np.where(np.isfinite(level_l), level_l, 0.0)
    z = (finite[None, :] - mean) / std
    found = (finite[None, :] - mean) * ndtr(z) + std * np.exp(-0.5 * z * z) / _ROOT_2PI
    return np.where(np.isfinite(level_l)[None, :], np.maximum(found, 0.0), 0.0)


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
