"""From out-of-fold errors to a calibrated distribution: its spread, its shape, and an interval that covers.

A score is ``log(measured / predicted)`` in units of the standard deviation that the model states at that architecture. Scores made
out of fold give the shape of the distribution around a prediction, whatever it is (two clocks of a machine give two peaks), and by
cross-conformal prediction (Vovk 2015, 1208.0806) the ends of an interval. Everything is in logarithms: nothing predicted is negative.

n architectures, r repeats, q knots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from surrogates.base import FloatArray
from surrogates.calibration import min_scores

# Share of the misses that may lie below the interval. Errors can be skewed (a node that is slower now and then), so another share than
# a half is taken where it makes the interval clearly narrower; choosing the narrowest always would cost half a percent of coverage.
_LOWER_SHARES = (0.5, 0.1, 0.9)
_CLEARLY = 0.9
_MAX_KNOTS, _DIGITS = 201, 9
_STEEPEST = 1.0  # a steeper slope would throw the scores of quiet sizes onto noisy ones
_DOUBT = (
    4.0  # a slope of the noise in the size is kept by t^2 / (t^2 + this), t being its t-statistic
)


@dataclass(frozen=True, eq=False)
class Scores:
    """The distribution of ``log(measured / predicted)``.

    Args:
        spread: unit of the scores at an architecture of typical size: about the root mean square of the error.
        slope: how the logarithm of the spread changes with the logarithm of the prediction.
        typical: logarithm of the prediction of typical size.
        low: score of the interval's lower end.
        high: score of the interval's upper end.
        knots_q: quantiles of the scores at evenly spaced probabilities.
        doubt: root mean square of the model's own uncertainty in ``spread``; what exceeds it at an architecture widens the interval.
    """

    spread: float
    slope: float
    typical: float
    low: float
    high: float
    knots_q: FloatArray
    doubt: float

    def scale(self, predicted_n: FloatArray, own_std_n: FloatArray) -> FloatArray:
        """Standard deviation of the error's logarithm at n architectures, shape (n,).

        Args:
            predicted_n: predictions, above 0.
            own_std_n: standard deviations of the model's own uncertainty, relative to the predictions.
        """
        noise_n = self.spread * np.exp(self.slope * (np.log(predicted_n) - self.typical))
        extra_n = np.maximum(own_std_n**2 - self.doubt**2, 0.0)
        scale_n: FloatArray = np.sqrt(noise_n**2 + extra_n)
        return scale_n

    @property
    def deviation(self) -> float:
        """Standard deviation of the scores, the wildest percent left out; 1 where ``spread`` tells it, more with heavy tails."""
        cut = max(len(self.knots_q) // 200, 1)
        return float(np.sqrt(np.mean(self.knots_q[cut:-cut] ** 2)))

    @classmethod
    def fit(
        cls,
        measured_nr: FloatArray,
        predicted_n: FloatArray,
        own_std_n: FloatArray,
        level: float,
    ) -> Self:
        """Learn the distribution from predictions of architectures that the model had not seen.

        Args:
            measured_nr: measurements, above 0; NaN where there is none. Those of one architecture count as one together.
            predicted_n: out-of-fold predictions, above 0.
            own_std_n: standard deviations of the model's own uncertainty, relative to the predictions.
            level: probability with which the interval should hold a fresh measurement.
        """
        seen_nr = np.isfinite(measured_nr)
        with np.errstate(invalid="ignore"):
            error_nr = np.log(measured_nr) - np.log(predicted_n)[:, None]
        weight_nr = seen_nr / seen_nr.sum(axis=1)[:, None]
        typical = float(np.log(predicted_n).mean())
        absolute_n = np.where(seen_nr, np.abs(error_nr), 0.0).sum(axis=1) / seen_nr.sum(axis=1)
        slope = _slope(np.log(predicted_n) - typical, absolute_n)
        relative_n = np.exp(slope * (np.log(predicted_n) - typical))
        flat_error = error_nr[seen_nr]
        weights = weight_nr[seen_nr]
        rows = np.nonzero(seen_nr)[0]
        # a few wild repeats (a thousandfold) must not set the unit; the scores keep them
        unit = flat_error / relative_n[rows]
        cut = 10.0 * float(np.median(np.abs(unit))) + 1e-12
        spread = math.sqrt(float(np.average(np.clip(unit, -cut, cut) ** 2, weights=weights))) + 1e-9
        doubt = math.sqrt(float(np.mean(own_std_n**2)))
        blank = cls(spread, slope, typical, -1.0, 1.0, np.zeros(2), doubt)
        scores = flat_error / blank.scale(predicted_n, own_std_n)[rows]
        low, high = _ends(scores, weights, len(predicted_n), level)
        probabilities = (np.arange(_MAX_KNOTS) + 0.5) / _MAX_KNOTS
        # rounded as they are stored, so that a loaded surrogate says the same
        knots_q = np.round(weighted_quantile(scores, weights, probabilities), _DIGITS)
        return cls(spread, slope, typical, low, high, knots_q, doubt)

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return values | {"knots_q": [round(float(v), _DIGITS) for v in self.knots_q]}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Inverse of :meth:`to_json`."""
        return cls(**(fields | {"knots_q": np.array(fields["knots_q"], dtype=np.float64)}))


def weighted_quantile(
    values: FloatArray, weights: FloatArray, probabilities: npt.ArrayLike
) -> FloatArray:
    """Least value whose cumulated weight reaches each probability (the inverse of the weighted distribution function)."""
    order = np.argsort(values)
    share = np.cumsum(weights[order]) / weights.sum()
    wanted = np.asarray(probabilities, dtype=np.float64)
    where = np.minimum(np.searchsorted(share, wanted - 1e-12), len(values) - 1)
    found: FloatArray = values[order][where]
    return found


def _slope(log_size_n: FloatArray, absolute_n: FloatArray) -> float:
    """Least-squares slope of log |error| in log size, shrunk towards 0 by its own uncertainty."""
    n = len(log_size_n)
    total = float(log_size_n @ log_size_n)
    if n < 10 or total < 1e-12:
        return 0.0
    floor = 1e-3 * float(np.median(absolute_n)) + 1e-12
    y_n = np.log(absolute_n + floor)
    y_n = y_n - y_n.mean()
    slope = float(log_size_n @ y_n) / total
    left_n = y_n - slope * log_size_n
    square = slope**2 * total / (float(left_n @ left_n) / (n - 2) + 1e-12)
    return float(np.clip(slope * square / (square + _DOUBT), -_STEEPEST, _STEEPEST))


def _ends(
    scores: FloatArray, weights: FloatArray, num_independent: int, level: float
) -> tuple[float, float]:
    """Conformal ends of the narrowest interval among a few that divide the misses differently between both sides."""
    n = num_independent
    least = min_scores(level)
    if n < least:
        raise ValueError(
            f"expected {least} or more different architectures for a {level:.0%} interval, got {n}; measure more"
        )
    found = []
    for share in _LOWER_SHARES:
        below, above = share * (1.0 - level), (1.0 - share) * (1.0 - level)
        if min(below, above) * (n + 1) >= 1.0:
            upper = math.ceil((n + 1) * (1.0 - above) - 1e-9) / n
            lower = math.ceil((n + 1) * (1.0 - below) - 1e-9) / n
            high = float(weighted_quantile(scores, weights, min(upper, 1.0)))
            low = -float(weighted_quantile(-scores, weights, min(lower, 1.0)))
            found.append((high - low, low, high))
    if not found:  # too few for two tails
        rank = math.ceil((n + 1) * level - 1e-9) / n
        high = float(weighted_quantile(np.abs(scores), weights, min(rank, 1.0)))
        return -high, high
    # the first is the even one where there is enough data for it
    width, low, high = min(found)
    return (low, high) if width < _CLEARLY * found[0][0] else found[0][1:]
