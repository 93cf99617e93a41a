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
import os
from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from search_spaces import Architecture, Family, Workload
from surrogates.base import FloatArray, Prediction
from surrogates.calibrated import Calibrated
from surrogates.calibration import coverage, grouped_folds, kendall_tau, mape, min_scores
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
        self._found: Calibrated | None = None

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
        least = max(MIN_RECORDS, min_scores(self.level))
        if len(set(keys)) < least:
            raise ValueError(
                f"expected records of {least} or more different architectures, got {len(set(keys))}; measure more"
            )
        model = _learn(features_nf, records, self._reference_f, self._reference_weight)
        self._found = Calibrated.fit(
            model, features_nf, records, keys, self._reference_f, self.level, self.seed
        )
        return self

    @property
    def num_records(self) -> int:
        """Records of the last fit; 0 before it."""
        return 0 if self._found is None else len(self._found.keys)

    @property
    def coefficients(self) -> dict[str, float]:
        """Milliseconds per unit of each operator count with a coefficient above 0, by name.

        Raises:
            ValueError: if called before :meth:`fit`.
        """
        values = self._fitted().model.mean.coefficients_f
        names = feature_names(self.kernels is not None)
        return {name: float(v) for name, v in zip(names, values, strict=True) if v > 0}

    def _fitted(self) -> Calibrated:
        if self._found is None:
            raise ValueError(
                "expected a fitted surrogate, got one without records; call fit() or load() first"
            )
        return self._found

    def predict(self, architectures: Sequence[Architecture]) -> Prediction:
        """Milliseconds of architectures, in the order given.

        Raises:
            ValueError: if called before :meth:`fit`.
        """
        return self._fitted().predict(self._features(architectures))

    def sample(self, architectures: Sequence[Architecture], rng: np.random.Generator) -> FloatArray:
        """One measurement each, drawn from the predictive distribution: milliseconds above 0, in the order given."""
        return self.predict(architectures).sample(rng)

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
        found = self._fitted()
        features_nf, records, keys, n = (
            found.features_nf,
            found.records,
            found.keys,
            len(found.keys),
        )
        if k < 2 or k > len(set(keys)):
            raise ValueError(f"expected between 2 and {len(set(keys))} folds, got {k}")
        mean_n, low_n, high_n = np.zeros(n), np.zeros(n), np.zeros(n)
        for held in grouped_folds(keys, k, self.seed + 1):
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
            judge._fit(features_nf[rest], records.take(rest), [keys[i] for i in rest])
            guess = judge._fitted().predict(features_nf[held])
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
        own, arrays = self._fitted().to_parts()
        workload = self.workload
        meta = {
            "family": self.family.to_json(),
            "workload": {
                "phase": workload.phase,
                "batch": workload.batch,
                "context": workload.context,
            },
            "dtype": self.dtype,
            "level": self.level,
            "seed": self.seed,
            "feature_names": list(feature_names(self.kernels is not None)),
            "reference_weight": self._reference_weight,
            **own,
        }
        arrays["reference_f"] = self._reference_f
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
            found._reference_weight = meta.get("reference_weight", found._reference_weight)
            found._found = Calibrated.from_parts(
                meta, arrays, found._reference_f, found._reference_weight, found.level
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"expected a latency-surrogate of this version in {os.fspath(path)}, got another one ({error}); fit and save it again"
            ) from error
        return found
