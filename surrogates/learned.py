"""LatencySurrogate: milliseconds of architectures on one device, learned from a few dozen measurements, with honest intervals.

    log(latency) = log(analytic mean) + shrinkage x GP(residual) + noise

1. The analytic mean (``mean.py``) is a non-negative combination of operator counts. It extrapolates, and is right to a few percent.
2. A Gaussian process (BoTorch ``SingleTaskGP``, Matern-5/2, one lengthscale an input) learns the log-ratio that is left. Its inputs
   are the shares of a roofline's time that each kind of operator takes, which mean the same in every space and on every device.
   The ratio is shrunk by how much of it proves true out of fold: with few, noisy records the analytic mean stands alone.
3. Intervals are cross-conformal (Vovk 2015, 1208.0806): scores ``|log measured - log predicted| / std`` are made out of fold and on
   *single rounds* of measurement, because what an interval must hold is one fresh measurement, not the median of several.
4. A machine drifts between sessions, and all measurements of one session drift together, which no number of architectures
   averages out. The drift seen between r rounds enters with Student's t for r - 1 degrees of freedom.

n architectures, r rounds, f operator counts, d inputs of the process. All logarithms are natural, so 0.03 means 3 percent.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from search_spaces import Architecture, Family, Workload
from surrogates.base import FloatArray, Prediction
from surrogates.calibration import (
    conformal_quantile,
    coverage,
    grouped_folds,
    kendall_tau,
    mape,
    min_scores,
)
from surrogates.devices import DeviceSpec, device
from surrogates.inputs import InputScaler
from surrogates.kernel_table import KernelTable
from surrogates.mean import AnalyticMean, reference_weight, roofline_coefficients
from surrogates.posterior import Hyperparameters
from surrogates.records import Records, to_records
from surrogates.regression import Regression
from surrogates.roofline import feature_matrix, feature_names
from surrogates.storage import read_archive, write_archive

MIN_RECORDS = 12
_FOLDS = 10
_SCHEMA = 1


def _learn_hyperparameters(
    X_nd: FloatArray, y_n: FloatArray, noise_n: FloatArray
) -> Hyperparameters:
    """Maximize the marginal likelihood times the priors of a BoTorch ``SingleTaskGP``."""
    import torch
    from botorch.exceptions.errors import ModelFittingError
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
    from botorch.utils.sampling import manual_seed
    from gpytorch.constraints import GreaterThan
    from gpytorch.kernels import ScaleKernel
    from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
    from gpytorch.mlls import ExactMarginalLogLikelihood
    from gpytorch.priors import GammaPrior, LogNormalPrior

    d = X_nd.shape[1]
    if d == 0:  # every record has the same counts: nothing to learn from
        return Hyperparameters(np.ones(0), 1e-6, 0.0, 1.0)
    likelihood = FixedNoiseGaussianLikelihood(
        noise=torch.tensor(np.maximum(noise_n, 1e-6)),
        learn_additional_noise=True,
        noise_prior=LogNormalPrior(-2.0, 1.0),
        noise_constraint=GreaterThan(1e-4, initial_value=0.2),
    )
    kernel = ScaleKernel(
        get_covar_module_with_dim_scaled_prior(ard_num_dims=d, use_rbf_kernel=False),
        outputscale_prior=GammaPrior(2.0, 2.0),
    )
    model = SingleTaskGP(
        torch.tensor(X_nd),
        torch.tensor(y_n)[:, None],
        likelihood=likelihood,
        covar_module=kernel.to(torch.float64),
        outcome_transform=None,
    )
    # The seed is for retries after a failed line search, which draw from the priors. Should they all fail, the model stands where it
    # started, and the conformal scores judge it all the same.
    with manual_seed(0), contextlib.suppress(ModelFittingError):
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    return Hyperparameters(
        kernel.base_kernel.lengthscale.detach().numpy().reshape(-1).astype(np.float64),
        float(kernel.outputscale.detach()),
        float(model.mean_module.constant.detach()),
        float(likelihood.second_noise.detach()),
    )


def _learn(
    features_nf: FloatArray, records: Records, reference_f: FloatArray, weight: float
) -> Regression:
    mean = AnalyticMean.fit(features_nf, np.exp(records.log_ms_n), reference_f, weight)
    residual_n = records.log_ms_n - np.log(mean(features_nf))
    unit = max(float(residual_n.std()), 1e-5)
    X_nd = InputScaler.fit(features_nf, reference_f)(features_nf)
    hyper = _learn_hyperparameters(X_nd, residual_n / unit, records.noise_n / unit**2)
    return Regression.condition(features_nf, records, mean, reference_f, hyper, unit)


class LatencySurrogate:
    """Latency of one workload on one device as a function of the architecture.

    Args:
        family: what the search space holds fixed.
        workload: decode or prefill, batch and context.
        dtype: of weights and activations.
        reference: device (or name) whose roofline stands in where the records are silent; only its ratios matter.
        level: probability with which an interval should hold one fresh measurement.
        seed: of the folds.
        kernels: measured products of the device, whose sum over an architecture's linears the mean starts from.

    Raises:
        ValueError: if the device, the dtype or the level is unknown.
    """

    def __init__(
        self,
        family: Family,
        workload: Workload,
        *,
        dtype: str = "float32",
        reference: DeviceSpec | str = "cpu",
        level: float = 0.9,
        seed: int = 0,
        kernels: KernelTable | None = None,
    ) -> None:
        self.family = family
        self.workload = workload
        self.dtype = dtype
        self.level = level
        self.seed = seed
        min_scores(level)
        spec = device(reference) if isinstance(reference, str) else reference
        self.kernels = None if kernels is None else kernels.part(dtype, workload.num_tokens)
        self._reference_f = roofline_coefficients(
            spec, dtype, kernels is not None, workload.num_tokens
        )
        self._reference_weight = reference_weight(spec)
        self._records: Records | None = None
        self._features_nf: FloatArray | None = None
        self._keys: list[str] = []
        self._model: Regression | None = None
        self._shrinkage = 1.0
        self._quantile = math.nan

    def fit(
        self,
        architectures: Sequence[Architecture],
        latency_ms_n: npt.ArrayLike | None = None,
        *,
        spread_ms_n: npt.ArrayLike | None = None,
        repeats_nr: npt.ArrayLike | None = None,
    ) -> Self:
        """Learn from measurements; what was learned before is forgotten.

        Args:
            architectures: n measured subnets; one may occur several times.
            latency_ms_n: milliseconds, above 0; by default the median over the rounds of ``repeats_nr``.
            spread_ms_n: standard deviation of each of ``latency_ms_n``.
            repeats_nr: each column one round over all architectures, at another time; NaN where a round has none. With it, intervals
                are calibrated on single rounds and hold drift between rounds; four rounds or more keep them narrow.

        Returns:
            Itself.

        Raises:
            ValueError: if there are fewer than 12 records, lengths differ, or a measurement is not finite and positive.
        """
        records = to_records(len(architectures), latency_ms_n, spread_ms_n, repeats_nr)
        keys = [architecture.key for architecture in architectures]
        return self._fit(self._features(architectures), records, keys)

    def _features(self, architectures: Sequence[Architecture]) -> FloatArray:
        return feature_matrix(architectures, self.family, self.workload, self.dtype, self.kernels)

    def _fit(self, features_nf: FloatArray, records: Records, keys: Sequence[str]) -> Self:
        n = len(keys)
        least = max(MIN_RECORDS, min_scores(self.level))
        if len(set(keys)) < least:
            raise ValueError(
                f"expected records of {least} or more different architectures, got {len(set(keys))}; measure more"
            )
        model = _learn(features_nf, records, self._reference_f, self._reference_weight)
        base_n, correction_n, variance_n = np.zeros(n), np.zeros(n), np.zeros(n)
        for held in grouped_folds(keys, min(_FOLDS, len(set(keys))), self.seed):
            # The mean and the process are refitted; only the process's few hyperparameters have seen the fold.
            rest = np.flatnonzero(~held)
            fold = model.refit(features_nf[rest], records.take(rest), self._reference_f)
            base_n[held], correction_n[held], variance_n[held] = fold(features_nf[held])
        residual_n = records.log_ms_n - base_n
        energy = float(correction_n @ correction_n)
        slope = float(correction_n @ residual_n) / energy if energy > 0 else 1.0
        self._shrinkage = min(max(slope, 0.0), 1.0)
        mean_n = base_n + self._shrinkage * correction_n
        std_n = np.sqrt(variance_n + records.single_noise)
        scores_nr = np.abs(records.single_log_ms_nr - mean_n[:, None]) / std_n[:, None]
        scores = scores_nr[np.isfinite(scores_nr)]
        self._quantile = conformal_quantile(scores, self.level, num_independent=len(set(keys)))
        self._features_nf, self._records = features_nf, records
        self._keys, self._model = list(keys), model
        return self

    @property
    def num_records(self) -> int:
        """Records of the last fit; 0 before it."""
        return 0 if self._records is None else len(self._records.log_ms_n)

    @property
    def coefficients(self) -> dict[str, float]:
        """Milliseconds per unit of each operator count with a coefficient above 0, by name.

        Raises:
            ValueError: if called before :meth:`fit`.
        """
        values = self._fitted()[0].mean.coefficients_f
        names = feature_names(self.kernels is not None)
        return {name: float(v) for name, v in zip(names, values, strict=True) if v > 0}

    def _fitted(self) -> tuple[Regression, Records]:
        if self._model is None or self._records is None:
            raise ValueError(
                "expected a fitted surrogate, got one without records; call fit() or load() first"
            )
        return self._model, self._records

    def predict(self, architectures: Sequence[Architecture]) -> Prediction:
        """Milliseconds of architectures, in the order given.

        Raises:
            ValueError: if called before :meth:`fit`.
        """
        self._fitted()
        return self._predict(self._features(architectures))

    def sample(self, architectures: Sequence[Architecture], rng: np.random.Generator) -> FloatArray:
        """One measurement each, drawn from the predictive distribution: milliseconds above 0, in the order given."""
        return self.predict(architectures).sample(rng)

    def _predict(self, features_nf: FloatArray) -> Prediction:
        model, records = self._fitted()
        if len(features_nf) == 0:
            empty = np.zeros(0)
            return Prediction(empty, empty, empty, empty, self.level)
        base_n, correction_n, variance_n = model(features_nf)
        log_n = base_n + self._shrinkage * correction_n
        variance_n = variance_n + records.single_noise
        half_n = np.sqrt(self._quantile**2 * variance_n + records.drift_margin(self.level) ** 2)
        # Few records of one round can make any score; a factor of e^50 says as much, and stays a number.
        half_n = np.minimum(half_n, 50.0)
        low_n, high_n = np.exp(log_n - half_n), np.exp(log_n + half_n)
        mean_n = np.clip(np.exp(log_n + 0.5 * variance_n), low_n, high_n)  # of a log-normal
        std_n = mean_n * np.sqrt(np.expm1(np.minimum(variance_n, 10.0)))
        _, far_n = model.scaler.beyond(features_nf)
        return Prediction(mean_n, std_n, low_n, high_n, self.level, far_n)

    def cross_validate(self, k: int = 5) -> dict[str, float]:
        """Judge the surrogate on records it has not seen: k times, everything is fitted to the other records.

        Args:
            k: number of folds, 2 or more.

        Returns:
            ``kendall_tau`` and ``mape`` (a fraction) of the mean, ``coverage`` of single measurements by the interval, ``num_records`` and
            ``interval_level``. All rounds are of the same sessions, so drift to a later session is not judged here.

        Raises:
            ValueError: if called before :meth:`fit`, or the other folds hold too few records.
        """
        _, records = self._fitted()
        assert self._features_nf is not None
        n = self.num_records
        if k < 2 or k > len(set(self._keys)):
            raise ValueError(f"expected between 2 and {len(set(self._keys))} folds, got {k}")
        mean_n, low_n, high_n = np.zeros(n), np.zeros(n), np.zeros(n)
        for held in grouped_folds(self._keys, k, self.seed + 1):
            rest = np.flatnonzero(~held)
            judge = LatencySurrogate(
                self.family,
                self.workload,
                dtype=self.dtype,
                level=self.level,
                seed=self.seed,
                kernels=self.kernels,
            )
            judge._reference_f = self._reference_f
            judge._reference_weight = self._reference_weight
            judge._fit(self._features_nf[rest], records.take(rest), [self._keys[i] for i in rest])
            guess = judge._predict(self._features_nf[held])
            mean_n[held], low_n[held], high_n[held] = guess.mean_n, guess.low_n, guess.high_n
        singles_nr = np.exp(records.single_log_ms_nr)
        seen_nr = np.isfinite(singles_nr)
        rows, _ = np.nonzero(seen_nr)
        measured_n = np.exp(records.log_ms_n)
        return {
            "num_records": n,
            "kendall_tau": kendall_tau(mean_n, measured_n),
            "mape": mape(mean_n, measured_n),
            "coverage": coverage(low_n[rows], high_n[rows], singles_nr[seen_nr]),
            "interval_level": self.level,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted surrogate with its records to one ``.npz`` file (arrays and JSON; nothing is unpickled).

        Raises:
            ValueError: if called before :meth:`fit`.
        """
        model, records = self._fitted()
        assert self._features_nf is not None
        process = model.process
        arrays: dict[str, npt.NDArray[Any]] = {
            "features_nf": self._features_nf,
            "log_ms_n": records.log_ms_n,
            "noise_n": records.noise_n,
            "single_log_ms_nr": records.single_log_ms_nr,
            "reference_f": self._reference_f,
            "coefficients_f": model.mean.coefficients_f,
            "lengthscale_d": process.hyper.lengthscale_d,
        }
        meta = {
            "family": self.family.to_json(),
            "workload": {
                "phase": self.workload.phase,
                "batch": self.workload.batch,
                "context": self.workload.context,
            },
            "dtype": self.dtype,
            "level": self.level,
            "seed": self.seed,
            "feature_names": list(feature_names(self.kernels is not None)),
            "keys": self._keys,
            "single_noise": records.single_noise,
            "drift_std": records.drift_std,
            "num_rounds": records.num_rounds,
            "floor_ms": model.mean.floor_ms,
            "reference_weight": self._reference_weight,
            "outputscale": process.hyper.outputscale,
            "mean": process.hyper.mean,
            "noise": process.hyper.noise,
            "unit": model.unit,
            "shrinkage": self._shrinkage,
            "quantile": self._quantile,
        }
        if self.kernels is not None:  # the rows that predictions read, so that the file is complete
            meta["kernels"] = self.kernels.to_json()
        write_archive(path, "latency-surrogate", _SCHEMA, meta, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LatencySurrogate:
        """Inverse of :meth:`save`: the loaded surrogate predicts the same numbers.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is truncated, damaged, foreign or of another version.
        """
        meta, arrays = read_archive(path, "latency-surrogate", _SCHEMA)
        try:
            kernels = KernelTable.from_json(meta["kernels"]) if "kernels" in meta else None
            if meta["feature_names"] != list(feature_names(kernels is not None)):
                raise ValueError("its operator counts are not those of this version")
            family, workload = Family.from_json(meta["family"]), Workload(**meta["workload"])
            found = cls(
                family,
                workload,
                dtype=meta["dtype"],
                level=meta["level"],
                seed=meta["seed"],
                kernels=kernels,
            )
            found._reference_f = arrays["reference_f"]
            found._features_nf, found._keys = arrays["features_nf"], list(meta["keys"])
            found._records = Records(
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
            found._reference_weight = meta.get("reference_weight", found._reference_weight)
            mean = AnalyticMean(arrays["coefficients_f"], meta["floor_ms"], found._reference_weight)
            found._model = Regression.condition(
                found._features_nf, found._records, mean, found._reference_f, hyper, meta["unit"]
            )
            found._shrinkage, found._quantile = meta["shrinkage"], meta["quantile"]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"expected a latency-surrogate of this version in {os.fspath(path)}, got another one ({error}); fit and save it again"
            ) from error
        return found
