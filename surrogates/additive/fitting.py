"""How a fit finds its hyperparameters, and what it would have predicted of every record without having seen it.

n records, p whitened features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from surrogates.additive.descriptors import Described
from surrogates.additive.evidence import learn, out_of_fold, solve
from surrogates.additive.kernel import NAMES, Gram, Whitening
from surrogates.base import FloatArray

MIN_RECORDS = 10
_MOST_FOR_LEARNING = (
    300  # rows that hyperparameters are learned from; more change nothing and cost their cube
)
_NOISE = NAMES.index("noise")


@dataclass(frozen=True)
class Units:
    """Values as the model sees them.

    Args:
        middle: median of the values.
        unit: their standard deviation.
        floor: least value ever predicted, above 0.
    """

    middle: float
    unit: float
    floor: float

    @classmethod
    def of(cls, y_n: FloatArray) -> Self:
        """Units of n values above 0."""
        middle = float(np.median(y_n))
        return cls(middle, max(float(np.std(y_n)), 1e-6 * middle), 0.05 * float(y_n.min()))

    def standardize(self, y_n: FloatArray) -> FloatArray:
        """Values to about zero mean and unit variance."""
        z_n: FloatArray = (y_n - self.middle) / self.unit
        return z_n

    def positive(self, z_n: FloatArray) -> FloatArray:
        """Inverse of :meth:`standardize`, never below the floor."""
        values_n: FloatArray = np.maximum(z_n * self.unit + self.middle, self.floor)
        return values_n

    def relative_noise(self, values_n: FloatArray) -> FloatArray:
        """Variance of noise that is proportional to the value, 1 at the middle."""
        variance_n: FloatArray = (np.maximum(values_n, 0.1 * self.middle) / self.middle) ** 2
        return variance_n


@dataclass(frozen=True, eq=False)
class Fitting:
    """One fit of n records.

    Args:
        x: their inputs.
        width_n: position of each one's width.
        whiten: hyperparameters to whitened features.
        kinds: kind of each layer descriptor.
        prior: medians of the hyperparameters' prior, as logarithms.
        units: of the values.
    """

    x: Described
    width_n: npt.NDArray[np.int64]
    whiten: Callable[[FloatArray], Whitening]
    kinds: tuple[str, ...]
    prior: FloatArray
    units: Units

    def _features(self, theta: FloatArray) -> FloatArray:
        return self.whiten(theta)(self.x, self.width_n)

    def learn(
        self, y_n: FloatArray, z_n: FloatArray, rng: np.random.Generator
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Hyperparameters, the noise variance of every row (of standardized values), and how far to trust it (typically 1).

        Args:
            y_n: values.
            z_n: the same, standardized.
            rng: draws the rows that are learned from, where there are many.
        """
        units = self.units
        low, high = np.quantile(y_n, [0.02, 0.98])
        rough_n = units.relative_noise(np.clip(y_n, low, high))
        psi_np = self._features(self.prior)
        # two robust fits under the prior's own hyperparameters say which rows to trust while better ones are learned
        for _ in range(2):
            mean_p, used_n = solve(psi_np, z_n, 0.1 * rough_n)
            weight_n = 0.1 * rough_n / used_n
            rough_n = units.relative_noise(units.positive(psi_np @ mean_p))
        rows = np.arange(len(y_n))
        if len(rows) > _MOST_FOR_LEARNING:
            rows = np.sort(rng.choice(rows, _MOST_FOR_LEARNING, replace=False))
        gram = Gram(self.x.take(rows), self.kinds)
        theta = self.prior
        for turn in range(3):
            noise_n = (rough_n / (weight_n / np.median(weight_n)))[rows]
            theta = learn(gram, z_n[rows], noise_n, self.prior, theta, 12 if turn else 40)
            psi_np = self._features(theta)
            level_n = np.exp(theta[_NOISE]) * rough_n
            mean_p, used_n = solve(psi_np, z_n, level_n)
            weight_n = level_n / used_n
            rough_n = units.relative_noise(units.positive(psi_np @ mean_p))
        return theta, np.exp(theta[_NOISE]) * rough_n, weight_n / np.median(weight_n)

    def out_of_fold(
        self,
        z_n: FloatArray,
        theta: FloatArray,
        noise_n: FloatArray,
        trust_n: FloatArray,
        fold_n: npt.NDArray[np.int64],
    ) -> tuple[FloatArray, FloatArray]:
        """Mean and variance (standardized) of every row by a model that has not seen it, hyperparameters included.

        Those are learned anew on the half of the rows that does not hold the fold, else the scores of a hundred rows would be a
        percent too small. Thousands of rows say the same hyperparameters in any half.
        """
        n = len(z_n)
        mean_n, variance_n = np.zeros(n), np.zeros(n)
        halves = (fold_n % 2 == 0, fold_n % 2 == 1)
        few = n <= 4 * _MOST_FOR_LEARNING
        for held_n in halves if few else (np.ones(n, dtype=np.bool_),):
            own = theta
            if few and (~held_n).sum() >= MIN_RECORDS:
                rows = np.flatnonzero(~held_n)[:_MOST_FOR_LEARNING]
                gram = Gram(self.x.take(rows), self.kinds)
                relative_n = noise_n[rows] / np.exp(theta[_NOISE]) / trust_n[rows]
                own = learn(gram, z_n[rows], relative_n, self.prior, theta, 15)
            scaled_n = noise_n * np.exp(own[_NOISE] - theta[_NOISE])
            wanted = np.unique(fold_n[held_n])
            mean_s, variance_s = out_of_fold(self._features(own), z_n, scaled_n, fold_n, wanted)
            mean_n[held_n], variance_n[held_n] = mean_s[held_n], variance_s[held_n]
        return mean_n, variance_n
