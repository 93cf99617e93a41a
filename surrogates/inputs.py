"""Inputs of the Gaussian process: what share of a roofline's time each kind of operator takes, and how large the whole is.

If the analytic mean has a coefficient wrong by some factor, the log-ratio of measured to predicted time is a function of exactly these
shares, in every space and on every device; raw counts would have to be relearned for each.

n architectures, f operator counts, c raw inputs, d inputs that vary in the records.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from surrogates.base import BoolArray, FloatArray
from surrogates.roofline import feature_names


@dataclass(frozen=True, eq=False)
class InputScaler:
    """Operator counts to standardized inputs, with the range they had in the records.

    Args:
        reference_f: milliseconds per unit of each operator count, on the reference device.
        low_c: least value of each raw input in the records.
        high_c: greatest value of each raw input in the records.
        used_c: raw inputs that vary in the records.
        center_d: mean of the used inputs.
        spread_d: standard deviation of the used inputs.
    """

    reference_f: FloatArray
    low_c: FloatArray
    high_c: FloatArray
    used_c: BoolArray
    center_d: FloatArray
    spread_d: FloatArray

    @classmethod
    def fit(cls, features_nf: FloatArray, reference_f: FloatArray) -> InputScaler:
        """Learn ranges, means and spreads from the records' operator counts."""
        inputs_nc = _inputs(features_nf, reference_f)
        spread_c = inputs_nc.std(axis=0)
        used_c = spread_c > 1e-6
        return cls(
            reference_f,
            inputs_nc.min(axis=0),
            inputs_nc.max(axis=0),
            used_c,
            inputs_nc.mean(axis=0)[used_c],
            spread_c[used_c],
        )

    def __call__(self, features_nf: FloatArray) -> FloatArray:
        """Standardized inputs of shape (n, d)."""
        inputs_nc = _inputs(features_nf, self.reference_f)
        X_nd: FloatArray = (inputs_nc[:, self.used_c] - self.center_d) / self.spread_d
        return X_nd

    def beyond(self, features_nf: FloatArray) -> tuple[FloatArray, BoolArray]:
        """How far each architecture leaves the range of the records (summed over inputs), and whether that is far."""
        inputs_nc = _inputs(features_nf, self.reference_f)
        beyond_nc = np.maximum(0.0, np.maximum(self.low_c - inputs_nc, inputs_nc - self.high_c))
        # Shares of rare operators scatter widely; size and width (the first two) are covered evenly by any sample of a space.
        margin_c = 0.5 * (self.high_c - self.low_c) + 0.01
        margin_c[:2] *= 0.5
        return beyond_nc.sum(axis=1), np.any(beyond_nc > margin_c, axis=1)


def _inputs(features_nf: FloatArray, reference_f: FloatArray) -> FloatArray:
    names = [name.partition(".") for name in feature_names()]
    # A kernel table's column says the linears' time again: no part of the total, but an input of its own, as a share of both.
    measured_nc = features_nf[:, len(names) :] * reference_f[len(names) :]
    time_nf = features_nf[:, : len(names)] * reference_f[: len(names)]
    kinds = list(dict.fromkeys(kind for kind, _, _ in names))
    by_kind = [
        time_nf[:, [i for i, name in enumerate(names) if name[0] == kind]].sum(axis=1)
        for kind in kinds
    ]
    launches_n = time_nf[:, [i for i, name in enumerate(names) if name[2] == "launches"]].sum(
        axis=1
    )
    total_n = time_nf.sum(axis=1)
    shares_nc = np.stack([*by_kind, launches_n], axis=1) / total_n[:, None]
    # The output layer's size is that of the embedding: its logarithm tells the width on the scale of the other inputs.
    width_n = np.log(features_nf[:, feature_names().index("unembed.flops")])
    return np.column_stack(
        [np.log(total_n), width_n, shares_nc, measured_nc / (measured_nc + total_n[:, None])]
    )
