"""Analytic mean: time is a non-negative combination of operator counts, with coefficients fitted to a device's measurements.

Seconds per launch, per FLOP and per byte of each kind of operator are physical quantities, so they are fitted by non-negative
least squares (Lawson & Hanson 1974, ch. 23): more work never makes a prediction faster, also far outside the data.

n records, f features (``roofline.feature_names``), j the features that occur in the records.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from surrogates.base import FloatArray
from surrogates.devices import DeviceSpec
from surrogates.roofline import feature_names

# Weight of the device's roofline against the records, per record and in units of shares of the total time. It decides only what the
# records leave open (a kind of operator in three records); 1e-4 costs nothing where they do not (tau, MAPE unchanged to 3 digits).
_RIDGE = 1e-4
# The same for a machine that was itself measured, sparse products included: its figures are right to a tenth, as records of a single
# round are. After 20 of those (four sets of 40 models, two cores) the MAPE fell from 6.9-8.6 % to 6.1-7.1 %.
_RIDGE_MEASURED = 1e-1
_HUBER = 2.0  # residuals beyond this many robust standard deviations lose weight
_REWEIGHTINGS = 30  # at most; most fits settle in five


def roofline_coefficients(
    spec: DeviceSpec, dtype: str, kernels: bool = False, tokens: int = 1
) -> FloatArray:
    """Milliseconds per unit of each feature as the device's figures have it (memory and arithmetic not overlapped); shape (f,).

    Args:
        spec: the device; what its sparse products cost is used where it is known.
        dtype: of weights and activations.
        kernels: whether the features have the column of a kernel table, whose unit is a microsecond.
        tokens: rows of the products, over which the cost of rebuilding a dense weight is spread.
    """
    per_quantity = {
        "launches": spec.op_overhead_s,
        "flops": 1.0 / spec.peak(dtype),
        "bytes": 1.0 / spec.bandwidth_bytes_s,
        "dense_flops": 0.0,  # only kernels that compute with the zeros pay for them
        "us": 1e-6,
    }
    names = [name.partition(".") for name in feature_names(kernels)]
    seconds_f = np.array([per_quantity[quantity] for _, _, quantity in names])
    for column, (kind, _, quantity) in enumerate(names):
        per_product, per_weight = (spec.sparse_s or {}).get(kind, (0.0, 0.0))
        if quantity == "launches":
            seconds_f[column] += per_product
        elif quantity == "dense_flops":
            seconds_f[column] += per_weight / (2 * tokens)
    return 1e3 * seconds_f


def reference_weight(spec: DeviceSpec) -> float:
    """How much a reference counts against the records; more where the device is a machine that was measured."""
    return _RIDGE if spec.sparse_s is None else _RIDGE_MEASURED


@dataclass(frozen=True)
class AnalyticMean:
    """A fitted non-negative combination of operator counts.

    Args:
        coefficients_f: milliseconds per unit of each feature, 0 or more.
        floor_ms: least time ever predicted, above 0, so that a logarithm exists.
        weight: of the reference that it was fitted beside.
    """

    coefficients_f: FloatArray
    floor_ms: float
    weight: float = _RIDGE

    def __call__(self, features_nf: FloatArray) -> FloatArray:
        """Milliseconds of n architectures; shape (n,)."""
        return np.maximum(features_nf @ self.coefficients_f, self.floor_ms)

    @classmethod
    def fit(
        cls,
        features_nf: FloatArray,
        latency_ms_n: FloatArray,
        reference_f: FloatArray,
        weight: float = _RIDGE,
    ) -> AnalyticMean:
        """Minimize the squared *relative* error, robustly (Huber weights), close to a reference where the records are silent.

        Args:
            features_nf: operator counts of the records.
            latency_ms_n: measured milliseconds, above 0.
            reference_f: coefficients of a roofline; only their ratios matter.
            weight: of the reference (:func:`reference_weight`).
        """
        from scipy.optimize import nnls  # a fifth of a second to import

        n = len(latency_ms_n)
        used = features_nf.max(axis=0) > 0
        X_nj = features_nf[:, used] / latency_ms_n[:, None]
        reference_j = reference_f[used]
        # A reference in ratios only: scaled so that it explains the median record.
        reference_j = reference_j / np.median(X_nj @ reference_j)
        typical_j = X_nj.mean(axis=0)
        pull_j = np.sqrt(weight * n) * reference_j * typical_j
        pull_jj = np.sqrt(weight * n) * np.eye(len(typical_j))
        weight_n = np.ones(n)
        shares_j = np.zeros(len(typical_j))
        for _ in range(_REWEIGHTINGS):
            root_n = np.sqrt(weight_n)
            rows = np.concatenate([X_nj / typical_j * root_n[:, None], pull_jj])
            before_j = shares_j
            shares_j, _ = nnls(rows, np.concatenate([root_n, pull_j]))
            if np.abs(shares_j - before_j).max() < 1e-4:
                break
            error_n = np.abs(X_nj @ (shares_j / typical_j) - 1.0)
            scale = _HUBER * 1.4826 * float(np.median(error_n)) + 1e-9
            weight_n = np.minimum(1.0, scale / np.maximum(error_n, 1e-12))
        coefficients_f = np.zeros(features_nf.shape[1])
        coefficients_f[used] = shares_j / typical_j
        return cls(coefficients_f, 0.05 * float(latency_ms_n.min()), weight)
