"""Regression: an analytic mean and a Gaussian process on what it leaves, conditioned on records. Logarithms of milliseconds.

n architectures, f operator counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from surrogates.base import FloatArray
from surrogates.inputs import InputScaler
from surrogates.mean import AnalyticMean
from surrogates.posterior import GaussianProcess, Hyperparameters
from surrogates.records import Records

# Relative error to expect per unit of share (or of log-time) by which an input leaves the range of the records: half of it.
_EXTRAPOLATION = 0.5


@dataclass(frozen=True, eq=False)
class Regression:
    """Mean and process conditioned on some records.

    Args:
        mean: analytic mean, in milliseconds.
        scaler: operator counts to inputs of the process.
        process: of the log-ratio of measured to mean, in units of ``unit``.
        unit: log-ratio that the process calls 1.
    """

    mean: AnalyticMean
    scaler: InputScaler
    process: GaussianProcess
    unit: float

    def refit(
        self, features_nf: FloatArray, records: Records, reference_f: FloatArray
    ) -> Regression:
        """Fit mean and process to other records, with this model's hyperparameters."""
        mean = AnalyticMean.fit(
            features_nf, np.exp(records.log_ms_n), reference_f, self.mean.weight
        )
        return self.condition(
            features_nf, records, mean, reference_f, self.process.hyper, self.unit, self.scaler
        )

    @classmethod
    def condition(
        cls,
        features_nf: FloatArray,
        records: Records,
        mean: AnalyticMean,
        reference_f: FloatArray,
        hyper: Hyperparameters,
        unit: float,
        inputs: InputScaler | None = None,
    ) -> Regression:
        """Condition the process on records, for a given mean and hyperparameters."""
        scaler = InputScaler.fit(features_nf, reference_f)
        if (
            inputs is not None
        ):  # the lengthscales belong to the scale they were learned on; the range is that of these records
            scaler = replace(inputs, low_c=scaler.low_c, high_c=scaler.high_c)
        residual_n = records.log_ms_n - np.log(mean(features_nf))
        process = GaussianProcess(
            scaler(features_nf), residual_n / unit, records.noise_n / unit**2, hyper
        )
        return cls(mean, scaler, process, unit)

    def __call__(self, features_nf: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Log of the mean, the process's correction to it, and the variance of both together without measurement noise."""
        correction_n, variance_n = self.process(self.scaler(features_nf))
        beyond_n, _ = self.scaler.beyond(features_nf)
        variance_n = (variance_n + self.process.hyper.noise) * self.unit**2
        variance_n += (_EXTRAPOLATION * beyond_n) ** 2
        return np.log(self.mean(features_nf)), correction_n * self.unit, variance_n
