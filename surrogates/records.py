"""Measurements as a surrogate needs them: one robust logarithm per architecture, its noise, and the drift between rounds.

n records, r rounds. A round measures every architecture once (in any order), at another time than the other rounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from surrogates.base import FloatArray

_PRIOR_ROUNDS = (
    4.0  # how many rounds' worth of the common variance a record's own variance is shrunk towards
)


@dataclass(frozen=True, eq=False)
class Records:
    """Measurements in logarithms of milliseconds.

    Args:
        log_ms_n: one value per record, drift between rounds taken out.
        noise_n: variance of ``log_ms_n``.
        single_log_ms_nr: what single rounds measured, NaN where a round has none.
        single_noise: typical variance of a single measurement within a round.
        drift_std: standard deviation of the factor that all measurements of a round share.
        num_rounds: rounds the drift was seen in; 1 when nothing is known about drift.
    """

    log_ms_n: FloatArray
    noise_n: FloatArray
    single_log_ms_nr: FloatArray
    single_noise: float
    drift_std: float
    num_rounds: int

    def take(self, rows: npt.NDArray[np.int64]) -> Records:
        """The records of some rows; what is known about noise and drift stays."""
        return Records(
            self.log_ms_n[rows],
            self.noise_n[rows],
            self.single_log_ms_nr[rows],
            self.single_noise,
            self.drift_std,
            self.num_rounds,
        )

    def drift_margin(self, level: float) -> float:
        """Half-width that drift adds, in quadrature, to an interval calibrated on the rounds themselves.

        A fresh session lies ``drift_std * t_{r-1} * sqrt(1 + 1/r)`` from the mean of r seen ones; the conformal scores already hold
        the drift as a normal one of that standard deviation would show, so only the excess is added. 0 for a single round.
        """
        if self.num_rounds < 2 or self.drift_std == 0:
            return 0.0
        from scipy.stats import norm, t

        r, upper = self.num_rounds, 0.5 + level / 2.0
        wide = float(t.ppf(upper, r - 1)) * math.sqrt(1.0 + 1.0 / r)
        return self.drift_std * math.sqrt(wide**2 - float(norm.ppf(upper)) ** 2)


def _positive(
    name: str, values: npt.ArrayLike, n: int, ndim: int, missing: bool = False
) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != ndim or len(array) != n:
        shape = f"({n},)" if ndim == 1 else f"({n}, r)"
        raise ValueError(
            f"expected {name} of shape {shape}, one row per architecture, got {array.shape}"
        )
    ok = np.isfinite(array) & (array > 0)
    if missing:
        ok |= np.isnan(array)
    if not np.all(ok):
        where = tuple(int(i) for i in np.argwhere(~ok)[0])
        raise ValueError(
            f"expected {name} finite and above 0, got {array[where]} in record {where[0]}"
        )
    return array


def to_records(
    num_architectures: int,
    latency_ms_n: npt.ArrayLike | None,
    spread_ms_n: npt.ArrayLike | None,
    repeats_nr: npt.ArrayLike | None,
) -> Records:
    """Check measurements and bring them to logarithms; see ``LatencySurrogate.fit`` for the arguments.

    Raises:
        ValueError: if nothing was measured, lengths differ, or a value is not finite and positive.
    """
    n = num_architectures
    if latency_ms_n is None and repeats_nr is None:
        raise ValueError("expected latency_ms_n or repeats_nr, got neither")
    target_n = (
        None if latency_ms_n is None else np.log(_positive("latency_ms_n", latency_ms_n, n, 1))
    )
    rounds_nr: FloatArray | None = None
    if repeats_nr is not None:
        rounds_nr = np.log(_positive("repeats_nr", repeats_nr, n, 2, missing=True))
        empty = np.flatnonzero(np.isnan(rounds_nr).all(axis=1))
        if len(empty):
            raise ValueError(
                f"expected a measurement in one round or more, got none in record {empty[0]}"
            )
    noise_n, single_noise, drift_std, r = np.zeros(n), 0.0, 0.0, 1
    if rounds_nr is not None and rounds_nr.shape[1] > 1:
        r = rounds_nr.shape[1]
        drift_r = _round_effects(rounds_nr)
        aligned_nr = rounds_nr - drift_r
        middle_n = np.nanmedian(aligned_nr, axis=1)
        squares_n = np.nansum((aligned_nr - np.nanmean(aligned_nr, axis=1)[:, None]) ** 2, axis=1)
        freedom_n = np.sum(np.isfinite(aligned_nr), axis=1) - 1
        pooled = _pooled_variance(squares_n, freedom_n)
        own_n = (_PRIOR_ROUNDS * pooled + squares_n) / (_PRIOR_ROUNDS + freedom_n)
        noise_n = own_n / (freedom_n + 1)
        single_noise = float(np.median(own_n))
        # A round's effect is a median over n records, so part of its variance (pi / 2 n of theirs) is noise, not drift.
        sampling = 0.5 * math.pi * pooled / max(n, 1)
        drift_std = math.sqrt(max(float(np.var(drift_r, ddof=1)) - sampling, 0.0))
        target_n = middle_n if target_n is None else target_n
    elif rounds_nr is not None and target_n is None:
        target_n = rounds_nr[:, 0]
    assert target_n is not None
    if spread_ms_n is not None:
        spread_n = np.asarray(spread_ms_n, dtype=np.float64)
        if spread_n.shape != (n,) or not np.all(np.isfinite(spread_n)) or np.any(spread_n < 0):
            raise ValueError(
                f"expected spread_ms_n of shape ({n},), finite and 0 or more, got {spread_n}"
            )
        noise_n = (spread_n / np.exp(target_n)) ** 2
        if rounds_nr is None:
            single_noise = float(np.median(noise_n))
    singles_nr = target_n[:, None] if rounds_nr is None else rounds_nr
    return Records(target_n, noise_n, singles_nr, single_noise, drift_std, r)


def _round_effects(rounds_nr: FloatArray) -> FloatArray:
    """What the measurements of each round share; their mean is 0.

    Rows are leveled by their mean, which converges at once where no measurement is missing (Tukey's median polish stalls for a few
    rounds); an outlier spoils its own row only, and over the rows the median is taken.
    """
    effects_r = np.zeros(rounds_nr.shape[1])
    for _ in range(10):
        left_nr = rounds_nr - np.nanmean(rounds_nr - effects_r, axis=1)[:, None]
        effects_r = np.array([np.nanmedian(c) if np.isfinite(c).any() else 0.0 for c in left_nr.T])
        effects_r -= effects_r.mean()
    return effects_r


def _pooled_variance(squares_n: FloatArray, freedom_n: npt.NDArray[np.int64]) -> float:
    """Variance of single measurements: the median over records of each one's own, which a few noisy records do not move.

    The median of a chi-squared variable is ``k (1 - 2 / 9k)^3`` for k degrees of freedom (Wilson & Hilferty 1931).
    """
    known = freedom_n > 0
    k_n = freedom_n[known].astype(np.float64)
    return (
        float(np.median(squares_n[known] / (k_n * (1.0 - 2.0 / (9.0 * k_n)) ** 3)))
        if len(k_n)
        else 0.0
    )
