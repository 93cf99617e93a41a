"""How good a surrogate is: rank correlation, error, likelihood, coverage; and the quantile that makes intervals cover.

n points throughout. Scores of split-conformal prediction (Vovk et al. 2005; Lei et al., 1604.04173): with n exchangeable
calibration scores, the ``ceil((n + 1) level)``-th smallest is exceeded by a fresh score with probability at most 1 - level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from surrogates.base import BoolArray, FloatArray


def _pair(a: npt.ArrayLike, b: npt.ArrayLike, least: int = 1) -> tuple[FloatArray, FloatArray]:
    a_n, b_n = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a_n.ndim != 1 or a_n.shape != b_n.shape or len(a_n) < least:
        raise ValueError(
            f"expected two vectors of one length, {least} or more, got shapes {a_n.shape} and {b_n.shape}"
        )
    if not (np.all(np.isfinite(a_n)) and np.all(np.isfinite(b_n))):
        raise ValueError("expected finite numbers, got NaN or infinity")
    return a_n, b_n


def kendall_tau(predicted_n: npt.ArrayLike, measured_n: npt.ArrayLike) -> float:
    """Kendall's tau-b: +1 when both orders agree, 0 when one of them is constant.

    Args:
        predicted_n: predictions, any unit.
        measured_n: truths in the same order.

    Raises:
        ValueError: if the vectors differ in length, hold fewer than 2 points, or NaN.
    """
    from scipy.stats import kendalltau  # half a second to import, so not at the top

    a_n, b_n = _pair(predicted_n, measured_n, least=2)
    if np.ptp(a_n) == 0 or np.ptp(b_n) == 0:
        return 0.0
    return float(kendalltau(a_n, b_n).statistic)


def mape(predicted_n: npt.ArrayLike, measured_n: npt.ArrayLike) -> float:
    """Mean of ``|predicted - measured| / measured``; a fraction, not percent.

    Raises:
        ValueError: if the vectors differ in length, are empty, hold NaN, or a truth is not above 0.
    """
    a_n, b_n = _pair(predicted_n, measured_n)
    if np.any(b_n <= 0):
        raise ValueError(f"expected truths above 0 for a relative error, got {b_n.min()}")
    return float(np.mean(np.abs(a_n - b_n) / b_n))


def coverage(low_n: npt.ArrayLike, high_n: npt.ArrayLike, measured_n: npt.ArrayLike) -> float:
    """Share of measurements inside their closed interval.

    Raises:
        ValueError: if the vectors differ in length, are empty or hold NaN.
    """
    low, measured = _pair(low_n, measured_n)
    high, _ = _pair(high_n, measured_n)
    return float(np.mean((low <= measured) & (measured <= high)))


def nll(mean_n: npt.ArrayLike, std_n: npt.ArrayLike, measured_n: npt.ArrayLike) -> float:
    """Mean negative log-likelihood of the measurements under independent normal distributions; lower is better.

    Raises:
        ValueError: if the vectors differ in length, are empty, hold NaN, or a standard deviation is not above 0.
    """
    mean, measured = _pair(mean_n, measured_n)
    std, _ = _pair(std_n, measured_n)
    if np.any(std <= 0):
        raise ValueError(f"expected standard deviations above 0, got {std.min()}")
    terms_n = 0.5 * ((measured - mean) / std) ** 2 + np.log(std) + 0.5 * math.log(2.0 * math.pi)
    return float(np.mean(terms_n))


def min_scores(level: float) -> int:
    """Fewest calibration scores with which a conformal interval of this level is finite: ``ceil(level / (1 - level))``.

    Raises:
        ValueError: if the level is not in (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"expected a level in (0, 1), got {level!r}")
    # the tolerance keeps 0.9 / (1 - 0.9) = 9.000000000000002 from becoming 10
    return math.ceil(level / (1.0 - level) - 1e-9)


def conformal_quantile(
    scores_n: npt.ArrayLike, level: float, num_independent: int | None = None
) -> float:
    """Score that a fresh one exceeds with probability at most ``1 - level`` (Lei et al., 1604.04173, theorem 2.2).

    Args:
        scores_n: calibration scores, made without the points they judge.
        level: coverage wanted, in (0, 1).
        num_independent: how many of the scores count as independent; fewer than all when several belong to one architecture.

    Returns:
        The ``ceil((n + 1) level) / n`` quantile of the scores.

    Raises:
        ValueError: if there are too few scores for a finite interval, or one is NaN.
    """
    scores = np.sort(np.asarray(scores_n, dtype=np.float64))
    n = len(scores) if num_independent is None else num_independent
    least = min_scores(level)
    if scores.ndim != 1 or n < least or n > len(scores):
        raise ValueError(
            f"expected {least} or more independent scores for a {level:.0%} interval, got {n} of {len(scores)}"
        )
    if np.any(np.isnan(scores)):
        raise ValueError("expected scores without NaN")
    share = math.ceil((n + 1) * level - 1e-9) / n
    rank = math.ceil(share * len(scores) - 1e-9)
    return float(scores[min(rank, len(scores)) - 1])


def grouped_folds(keys: Sequence[str], k: int, seed: int) -> list[BoolArray]:
    """Masks of k folds, drawn at random; records of one key (one architecture) are in one fold."""
    unique, group_n = np.unique(np.asarray(keys), return_inverse=True)
    fold_of_group = np.random.default_rng(seed).permutation(len(unique)) % k
    return [fold_of_group[group_n] == i for i in range(k)]
