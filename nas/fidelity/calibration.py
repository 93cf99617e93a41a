"""Calibration: what a few windows say about the perplexity on all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas.fidelity.record import spread_order

FloatArray = npt.NDArray[np.float64]
# Beliefs before any pair, of log perplexities: full = low + offset + slope (low - mean low) + noise.
OFFSET_STD = 0.5  # one text is harder than another
SLOPE_STD = 0.25
NOISE_STD = 0.03
NOISE_SHAPE = 2.0  # weight of that belief: of twice as many pairs
Z_90 = 1.6448536269514722  # half the width of a 90 % interval, in standard deviations


@dataclass(frozen=True)
class Calibration:
    """Bayesian linear regression of the full log perplexity on a low one, over the architectures that have both.

    All architectures read the same windows, so the two differ by how hard those windows are (the same for all), by a slope near 1, and
    by a small noise. Conjugate normal-inverse-gamma prior (Gelman et al., Bayesian Data Analysis, 3rd ed., sec. 14.2-14.8): slope 1,
    offset 0, and a noise that the pairs teach; with few pairs the prediction is wide.

    Args:
        center: mean of the low log perplexities.
        weights_2: posterior means of offset and slope - 1.
        covariance_22: posterior covariance of the weights, in units of the noise variance.
        shape: of the inverse gamma posterior of the noise variance.
        scale: of the same.
    """

    center: float
    weights_2: FloatArray
    covariance_22: FloatArray
    shape: float
    scale: float

    @classmethod
    def fit(cls, low_n: npt.ArrayLike, full_n: npt.ArrayLike) -> Calibration:
        """Learn from n pairs of log perplexities (nats a token); n may be 0.

        Args:
            low_n: on the few windows.
            full_n: on all windows.

        Raises:
            ValueError: if the lengths differ or a value is not finite.
        """
        low, full = np.asarray(low_n, dtype=np.float64), np.asarray(full_n, dtype=np.float64)
        if low.shape != full.shape or low.ndim != 1 or not np.isfinite([low, full]).all():
            raise ValueError(
                f"expected as many finite low log perplexities as full ones, got {low.tolist()} and {full.tolist()}"
            )
        center = float(low.mean()) if len(low) else 0.0
        A = np.stack([np.ones_like(low), low - center], axis=1)
        difference = full - low
        precision = np.diag([(NOISE_STD / OFFSET_STD) ** 2, (NOISE_STD / SLOPE_STD) ** 2])
        covariance: FloatArray = np.linalg.inv(precision + A.T @ A).astype(np.float64)
        weights = covariance @ (A.T @ difference)
        misfit = float(difference @ (difference - A @ weights))
        scale = NOISE_SHAPE * NOISE_STD**2 + 0.5 * max(misfit, 0.0)
        return cls(center, weights, covariance, NOISE_SHAPE + 0.5 * len(low), scale)

    def predict(self, low_n: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the full log perplexity, shape (n,) each.

        The posterior predictive is Student's t with ``2 shape`` degrees of freedom; its standard deviation is given.
        """
        low = np.asarray(low_n, dtype=np.float64)
        A = np.stack([np.ones_like(low), low - self.center], axis=-1)
        spread = 1.0 + np.einsum("...i,ij,...j->...", A, self.covariance_22, A)
        variance = self.scale / (self.shape - 1.0) * spread
        return low + A @ self.weights_2, np.sqrt(variance)

    def interval(self, low: float) -> tuple[float, float, float]:
        """Median perplexity and its 90 % interval, for one low log perplexity."""
        mean_n, std_n = self.predict(np.array([low]))
        mean, reach = float(mean_n[0]), Z_90 * float(std_n[0])
        return math.exp(mean), math.exp(mean - reach), math.exp(mean + reach)


def telling_parts(
    losses_np: FloatArray, tokens_p: FloatArray, count: int, begin: Sequence[int] = ()
) -> list[int]:
    """The parts of a text whose log perplexity tells that of the whole best, chosen one by one.

    Each addition is the part with which the calibration fits the pairs best (least posterior scale of its noise). Without pairs, and
    among equals, the parts are spread over the text.

    Args:
        losses_np: nats a token of n architectures on each of p parts.
        tokens_p: of each part.
        count: parts wanted, at most p.
        begin: parts that are among them.

    Returns:
        Indices, in the order in which they were chosen.
    """
    order = np.array(spread_order(len(tokens_p)))
    full_n = losses_np @ tokens_p / tokens_p.sum()
    chosen = list(begin)[:count]
    nats_n, tokens = losses_np[:, chosen] @ tokens_p[chosen], float(tokens_p[chosen].sum())
    while len(chosen) < count:
        left = order[~np.isin(order, chosen)]
        after = tokens + tokens_p[left]
        low_nl = (nats_n[:, None] + losses_np[:, left] * tokens_p[left]) / after
        misfit = _misfits(low_nl, full_n)
        # not the last digits: sums of another order must not change the choice
        best = int(left[np.flatnonzero(misfit <= misfit.min() * (1 + 1e-6) + 1e-15)[0]])
        chosen.append(best)
        nats_n, tokens = nats_n + losses_np[:, best] * tokens_p[best], tokens + tokens_p[best]
    return chosen


def _misfits(low_nl: FloatArray, full_n: FloatArray) -> FloatArray:
    """What :meth:`Calibration.fit` adds twice to the scale, for each column; centered, offset and slope do not mix."""
    if len(low_nl) == 0:
        return np.zeros(low_nl.shape[1])
    difference = full_n[:, None] - low_nl
    centered = low_nl - low_nl.mean(axis=0)
    sums, products = difference.sum(axis=0), (difference * centered).sum(axis=0)
    offset = sums / (len(full_n) + (NOISE_STD / OFFSET_STD) ** 2)
    slope = products / ((centered**2).sum(axis=0) + (NOISE_STD / SLOPE_STD) ** 2)
    found: FloatArray = (difference**2).sum(axis=0) - offset * sums - slope * products
    return found
