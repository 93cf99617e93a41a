"""How good the surrogate of each column is: every row is predicted by a fit that did not see it.

n architectures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from surrogates.base import FloatArray
from surrogates.benchmark import fit_column
from surrogates.calibration import coverage, kendall_tau, mape
from surrogates.tables import Key, MeasurementTable

FOLDS = 5


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Predictions of a column's rows, each by a surrogate that was fitted to the other folds.

    Args:
        measured_n: values of the rows.
        mean_n: predictions.
        low_n: lower ends of their 90 % intervals of the value.
        high_n: upper ends.
    """

    measured_n: FloatArray
    mean_n: FloatArray
    low_n: FloatArray
    high_n: FloatArray

    def scores(self) -> dict[str, Any]:
        """Kendall's tau, MAPE, coverage and mean relative width of the intervals; tau and MAPE of the lower half of the values too.

        The lower half is where a search ends: ranking good models is harder than telling good from bad.
        """
        lower_n = self.measured_n <= np.median(self.measured_n)
        width = float(np.mean((self.high_n - self.low_n) / self.measured_n))
        found = {
            "kendall_tau": kendall_tau(self.mean_n, self.measured_n),
            "mape": mape(self.mean_n, self.measured_n),
            "coverage90": coverage(self.low_n, self.high_n, self.measured_n),
            "width90": width,
            "kendall_tau_lower_half": kendall_tau(self.mean_n[lower_n], self.measured_n[lower_n]),
            "mape_lower_half": mape(self.mean_n[lower_n], self.measured_n[lower_n]),
        }
        return {name: round(value, 4) for name, value in found.items()} | {
            "rows": len(self.measured_n),
            "folds": FOLDS,
        }


def out_of_fold(table: MeasurementTable, key: Key, seed: int = 0) -> OutOfFold:
    """Predict every measured row of a column by a fit to the other folds.

    Args:
        table: measurements.
        key: the column.
        seed: of the folds.
    """
    rows = table.measured_rows(*key)
    fold_n = np.random.default_rng(seed).permutation(len(rows)) % FOLDS
    found_n3 = np.empty((len(rows), 3))
    for fold in range(FOLDS):
        held = fold_n == fold
        guess = fit_column(table, key, rows[~held]).predict(
            table.encoded.take(rows[held]), of="value"
        )
        found_n3[held] = np.column_stack([guess.mean_n, guess.low_n, guess.high_n])
    return OutOfFold(table.values(*key)[rows], *found_n3.T)
