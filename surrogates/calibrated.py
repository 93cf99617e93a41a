"""Calibrated: a regression of latency with what its errors out of fold say of it, and its parts in a file.

n architectures, r rounds, f operator counts. All logarithms are natural, so 0.03 means 3 percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from surrogates.base import FloatArray, Prediction
from surrogates.calibration import conformal_quantile, grouped_folds
from surrogates.mean import AnalyticMean
from surrogates.posterior import Hyperparameters
from surrogates.records import Records
from surrogates.regression import Regression

_FOLDS = 10


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A regression, how much of its process to believe, and how wide an interval must be.

    Args:
        model: mean and process, conditioned on all records.
        features_nf: operator counts of the records.
        records: what was measured.
        keys: of their architectures.
        shrinkage: share of the process's correction that proved true out of fold, in [0, 1].
        quantile: of the conformal scores, in standard deviations.
        level: probability with which an interval should hold one fresh measurement.
    """

    model: Regression
    features_nf: FloatArray
    records: Records
    keys: tuple[str, ...]
    shrinkage: float
    quantile: float
    level: float

    @classmethod
    def fit(
        cls,
        model: Regression,
        features_nf: FloatArray,
        records: Records,
        keys: Sequence[str],
        reference_f: FloatArray,
        level: float,
        seed: int,
    ) -> Self:
        """Judge a regression by its errors out of fold; its mean and process are refitted for each fold.

        Args:
            model: conditioned on all records.
            features_nf: operator counts of the records.
            records: what was measured.
            keys: of their architectures; records of one share their fold.
            reference_f: coefficients of the roofline that stands in where records are silent.
            level: probability with which an interval should hold one fresh measurement.
            seed: of the folds.
        """
        n, num_different = len(keys), len(set(keys))
        base_n, correction_n, variance_n = np.zeros(n), np.zeros(n), np.zeros(n)
        for held in grouped_folds(keys, min(_FOLDS, num_different), seed):
            # The mean and the process are refitted; only the process's few hyperparameters have seen the fold.
            rest = np.flatnonzero(~held)
            fold = model.refit(features_nf[rest], records.take(rest), reference_f)
            base_n[held], correction_n[held], variance_n[held] = fold(features_nf[held])
        residual_n = records.log_ms_n - base_n
        energy = float(correction_n @ correction_n)
        slope = float(correction_n @ residual_n) / energy if energy > 0 else 1.0
        shrinkage = min(max(slope, 0.0), 1.0)
        mean_n = base_n + shrinkage * correction_n
        std_n = np.sqrt(variance_n + records.single_noise)
        scores_nr = np.abs(records.single_log_ms_nr - mean_n[:, None]) / std_n[:, None]
        scores = scores_nr[np.isfinite(scores_nr)]
        quantile = conformal_quantile(scores, level, num_independent=num_different)
        return cls(model, features_nf, records, tuple(keys), shrinkage, quantile, level)

    def predict(self, features_nf: FloatArray) -> Prediction:
        """Milliseconds of n architectures."""
        if len(features_nf) == 0:
            empty = np.zeros(0)
            return Prediction(empty, empty, empty, empty, self.level)
        base_n, correction_n, variance_n = self.model(features_nf)
        log_n = base_n + self.shrinkage * correction_n
        variance_n = variance_n + self.records.single_noise
        margin = self.records.drift_margin(self.level)
        half_n = np.sqrt(self.quantile**2 * variance_n + margin**2)
        # Few records of one round can make any score; a factor of e^50 says as much, and stays a number.
        half_n = np.minimum(half_n, 50.0)
        low_n, high_n = np.exp(log_n - half_n), np.exp(log_n + half_n)
        mean_n = np.clip(np.exp(log_n + 0.5 * variance_n), low_n, high_n)  # of a log-normal
        std_n = mean_n * np.sqrt(np.expm1(np.minimum(variance_n, 10.0)))
        _, far_n = self.model.scaler.beyond(features_nf)
        return Prediction(mean_n, std_n, low_n, high_n, self.level, far_n)

    def to_parts(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """As JSON values and arrays."""
        model, records, hyper = self.model, self.records, self.model.process.hyper
        arrays: dict[str, npt.NDArray[Any]] = {
            "features_nf": self.features_nf,
            "log_ms_n": records.log_ms_n,
            "noise_n": records.noise_n,
            "single_log_ms_nr": records.single_log_ms_nr,
            "coefficients_f": model.mean.coefficients_f,
            "lengthscale_d": hyper.lengthscale_d,
        }
        meta = {
            "keys": list(self.keys),
            "single_noise": records.single_noise,
            "drift_std": records.drift_std,
            "num_rounds": records.num_rounds,
            "floor_ms": model.mean.floor_ms,
            "outputscale": hyper.outputscale,
            "mean": hyper.mean,
            "noise": hyper.noise,
            "unit": model.unit,
            "shrinkage": self.shrinkage,
            "quantile": self.quantile,
        }
        return meta, arrays

    @classmethod
    def from_parts(
        cls,
        meta: Mapping[str, Any],
        arrays: Mapping[str, npt.NDArray[Any]],
        reference_f: FloatArray,
        reference_weight: float,
        level: float,
    ) -> Self:
        """Inverse of :meth:`to_parts`.

        Raises:
            ValueError, KeyError, TypeError: if they are not those of this version.
        """
        records = Records(
            arrays["log_ms_n"],
            arrays["noise_n"],
            arrays["single_log_ms_nr"],
            meta["single_noise"],
            meta["drift_std"],
            meta["num_rounds"],
        )
        hyper = Hyperparameters(
            arrays["lengthscale_d"], meta["outputscale"], meta["mean"], meta["noise"]
        )
        mean = AnalyticMean(arrays["coefficients_f"], meta["floor_ms"], reference_weight)
        features_nf = arrays["features_nf"]
        model = Regression.condition(features_nf, records, mean, reference_f, hyper, meta["unit"])
        keys, shrinkage, quantile = tuple(meta["keys"]), meta["shrinkage"], meta["quantile"]
        return cls(model, features_nf, records, keys, shrinkage, quantile, level)
