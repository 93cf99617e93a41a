"""Objective values as a checked matrix, and its distinct rows in lexicographic order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from surrogates.base import BoolArray, FloatArray

IntArray = npt.NDArray[np.int64]


def point_matrix(Y_nm: npt.ArrayLike) -> FloatArray:
    """The points as a float64 matrix; an empty list is no points of no objectives.

    Args:
        Y_nm: n points, m objectives.

    Raises:
        ValueError: if it is not a matrix, or holds NaN or infinity (the row is named).
    """
    points = np.asarray(Y_nm, dtype=np.float64)
    if points.shape == (0,):  # an empty list
        points = points.reshape(0, 0)
    if points.ndim != 2 or (points.shape[1] == 0 and len(points)):
        raise ValueError(f"expected points as an (n, m) matrix, got shape {points.shape}")
    if not np.all(np.isfinite(points)):
        row = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
        raise ValueError(
            f"expected finite objective values, got {points[row].tolist()} in row {row}"
        )
    return points


def points_below(
    Y_nm: npt.ArrayLike, ref_point_m: npt.ArrayLike
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Checked points, the checked reference point, and which points are below it in every objective.

    Raises:
        ValueError: if a value is not finite or the shapes disagree.
    """
    points = point_matrix(Y_nm)
    ref = np.asarray(ref_point_m, dtype=np.float64)
    if ref.ndim != 1 or not np.all(np.isfinite(ref)) or ref.size == 0:
        raise ValueError(f"expected a finite ref_point of shape (m,), got {ref.tolist()}")
    if len(points) and points.shape[1] != len(ref):
        raise ValueError(
            f"expected a ref_point with {points.shape[1]} values like the points, got {len(ref)}"
        )
    points = points.reshape(len(points), len(ref))
    return points, ref, np.all(points < ref, axis=1)


def distinct_rows(points_nm: FloatArray) -> tuple[FloatArray, IntArray]:
    """Distinct rows in lexicographic order, and the place of each point among them.

    A point is dominated only by distinct rows before its own.

    Args:
        points_nm: one row or more; -0.0 and 0.0 are equal.

    Returns:
        The rows, shape (u, m), and places, shape (n,), so that ``rows[places]`` equals the points.
    """
    order = np.lexsort(points_nm.T[::-1])
    ordered = points_nm[order]
    is_new = np.concatenate([[True], np.any(ordered[1:] != ordered[:-1], axis=1)])
    places = np.empty(len(points_nm), dtype=np.int64)
    places[order] = np.cumsum(is_new) - 1
    return ordered[is_new], places
