"""How far below a level a random value is expected to lie: what expected hypervolume improvements are made of."""

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
