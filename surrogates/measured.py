"""Measured values as surrogates take them: checked, and one typical value from repeats with outliers.

n architectures, r repeats.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from surrogates.base import FloatArray

_TRIM = 0.1


def typical_values(repeats_nr: FloatArray) -> FloatArray:
    """Mean of each row without its lowest and highest tenth (Tukey's trimmed mean); NaN marks absent repeats.

    It shrugs off a repeat a thousand times too large, and unlike the median it tells a machine with two clocks by how often it has
    each.

    Args:
        repeats_nr: single measurements, one or more a row.

    Returns:
        Shape (n,); NaN for a row without repeats.
    """
    ordered_nr = np.sort(np.asarray(repeats_nr, dtype=np.float64), axis=1)  # NaN last
    num_n = np.isfinite(ordered_nr).sum(axis=1)
    cut_n = np.floor(_TRIM * num_n).astype(np.int64)
    index_r = np.arange(ordered_nr.shape[1])
    kept_nr = (index_r >= cut_n[:, None]) & (index_r < (num_n - cut_n)[:, None])
    total_n = np.where(kept_nr, ordered_nr, 0.0).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: FloatArray = np.where(num_n > 0, total_n / kept_nr.sum(axis=1), np.nan)
    return found


def check_values(
    num_architectures: int, values_n: npt.ArrayLike | None, repeats_nr: npt.ArrayLike | None
) -> tuple[FloatArray, FloatArray | None]:
    """Values and repeats as arrays.

    Raises:
        ValueError: if both are missing, lengths differ, or a value is not finite and positive; the record is named.
    """
    n = num_architectures
    singles_nr: FloatArray | None = None
    if repeats_nr is not None:
        singles_nr = np.asarray(repeats_nr, dtype=np.float64)
        if singles_nr.ndim != 2 or len(singles_nr) != n:
            raise ValueError(
                f"expected repeats_nr of shape ({n}, r), one row per architecture, got {singles_nr.shape}"
            )
        wrong = ~(np.isnan(singles_nr) | (np.isfinite(singles_nr) & (singles_nr > 0)))
        _refuse("repeats_nr", singles_nr, wrong)
        empty = np.flatnonzero(np.isnan(singles_nr).all(axis=1))
        if len(empty):
            raise ValueError(
                f"expected a measurement or more of every architecture, got none in record {empty[0]}"
            )
    if values_n is None:
        if singles_nr is None:
            raise ValueError("expected values_n or repeats_nr, got neither")
        return typical_values(singles_nr), singles_nr
    y_n = np.asarray(values_n, dtype=np.float64)
    if y_n.shape != (n,):
        raise ValueError(
            f"expected values_n of shape ({n},), one per architecture, got {y_n.shape}"
        )
    _refuse("values_n", y_n, ~(np.isfinite(y_n) & (y_n > 0)))
    return y_n, singles_nr


def _refuse(name: str, values: FloatArray, wrong: npt.NDArray[np.bool_]) -> None:
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"expected {name} finite and above 0, got {values[where]} in record {where[0]}"
        )
