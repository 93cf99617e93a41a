"""How good a set of points is by measures other than hypervolume: IGD+, R2, additive epsilon. Everything is minimized, less is better.

They add up or compare differences of objectives, so objectives of different units must be brought to one scale first (:func:`scaled`).

n points, m objectives, r reference points, w weights.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt

from surrogates.base import FloatArray
from surrogates.dominance.points import point_matrix

_CELLS = 2**22  # array elements at once


def scaled(Y_nm: npt.ArrayLike, ideal_m: npt.ArrayLike, worst_m: npt.ArrayLike) -> FloatArray:
    """Each objective as a share of the way from its ideal (0) to its worst value (1); values outside are kept outside.

    Args:
        Y_nm: n points, m objectives.
        ideal_m: best values, those of the best known front for example.
        worst_m: worst values, those of that front or of the reference point.

    Raises:
        ValueError: if a value is not finite, the shapes disagree, or an ideal is not below the worst value.
    """
    Y = point_matrix(Y_nm)
    ideal, worst = np.asarray(ideal_m, dtype=np.float64), np.asarray(worst_m, dtype=np.float64)
    if ideal.ndim != 1 or ideal.shape != worst.shape or not np.all(ideal < worst):
        raise ValueError(
            f"expected an ideal below the worst value in every objective, got {ideal.tolist()} and {worst.tolist()}"
        )
    if len(Y) and Y.shape[1] != len(ideal):
        raise ValueError(
            f"expected an ideal with {Y.shape[1]} values like the points, got {len(ideal)}"
        )
    return (Y.reshape(-1, len(ideal)) - ideal) / (worst - ideal)


def igd_plus(Y_nm: npt.ArrayLike, reference_rm: npt.ArrayLike) -> float:
    """Modified inverted generational distance, IGD+ (Ishibuchi et al. 2015, EMO, eq. 10-11).

    The mean over the reference points of the Euclidean distance to the nearest point, where being better in an objective is no
    distance. It never prefers a set to one that weakly dominates it (weakly Pareto compliant).

    Args:
        Y_nm: points to judge.
        reference_rm: the front to reach, the best known for example.

    Returns:
        0 exactly when every reference point is weakly dominated by some point.

    Raises:
        ValueError: if there is no point or no reference point, a value is not finite, or the shapes disagree.
    """
    Y, reference = _pair(Y_nm, reference_rm)
    total = 0.0
    for block in _blocks(reference, len(Y)):
        behind = np.maximum(Y[None, :, :] - block[:, None, :], 0.0)
        total += float(np.sqrt((behind**2).sum(axis=2)).min(axis=1).sum())
    return total / len(reference)


def additive_epsilon(Y_nm: npt.ArrayLike, reference_rm: npt.ArrayLike) -> float:
    """Additive epsilon: the least by which all points must improve in every objective to weakly dominate the reference.

    (Zitzler et al. 2003, IEEE TEC 7(2), eq. 5.) Negative when they dominate it strictly.

    Args:
        Y_nm: points to judge.
        reference_rm: the front to reach.

    Raises:
        ValueError: as for :func:`igd_plus`.
    """
    Y, reference = _pair(Y_nm, reference_rm)
    worst = -math.inf
    for block in _blocks(reference, len(Y)):
        shift = (Y[None, :, :] - block[:, None, :]).max(axis=2).min(axis=1)
        worst = max(worst, float(shift.max()))
    return worst


def r2(
    Y_nm: npt.ArrayLike, ideal_m: npt.ArrayLike, weights_wm: npt.ArrayLike | None = None
) -> float:
    """Unary R2 with weighted Tchebycheff functions (Hansen & Jaszkiewicz 1998; Brockhoff, Wagner & Trautmann 2012, GECCO, eq. 2).

    The mean over weights of the least, over the points, of the largest weighted way to the ideal.

    Args:
        Y_nm: points to judge.
        ideal_m: best values, not above those of any point.
        weights_wm: weights, none negative, each row of sum 1; by default :func:`simplex_weights` with about 500 rows.

    Raises:
        ValueError: if there is no point, a value is not finite, the shapes disagree, the ideal is above a point, or a weight is
            negative or a row does not sum to 1.
    """
    Y, ideals = _pair(Y_nm, np.asarray(ideal_m, dtype=np.float64)[None])
    ideal = ideals[0]
    if np.any(ideal > Y):
        raise ValueError(
            f"expected an ideal not above any point, got {ideal.tolist()} and a point with {Y.min(axis=0).tolist()}"
        )
    m = Y.shape[1]
    weights = simplex_weights(m) if weights_wm is None else point_matrix(weights_wm)
    if weights.shape[1] != m or not len(weights):
        raise ValueError(f"expected weights of shape (w, {m}), got {weights.shape}")
    if np.any(weights < 0.0) or not np.allclose(weights.sum(axis=1), 1.0):
        raise ValueError("expected weights of 0 or more that sum to 1 in each row, got others")
    total = 0.0
    for block in _blocks(weights, len(Y)):
        total += float((block[:, None, :] * (Y - ideal)[None]).max(axis=2).min(axis=1).sum())
    return total / len(weights)


def simplex_weights(num_objectives: int, divisions: int | None = None) -> FloatArray:
    """Evenly spread weights: all rows of multiples of 1 / divisions that sum to 1 (simplex lattice, Das & Dennis 1998).

    Args:
        num_objectives: of 1 or more.
        divisions: by default the fewest that give 500 rows or more (499 for two objectives, 31 for three, 13 for four).

    Returns:
        Weights of shape (w, m), in lexicographic order, ``w = C(divisions + m - 1, m - 1)``.

    Raises:
        ValueError: if a number is below 1.
    """
    m = num_objectives
    if m < 1 or (divisions is not None and divisions < 1):
        raise ValueError(
            f"expected 1 or more objectives and divisions, got {num_objectives} and {divisions}"
        )
    if m == 1:
        return np.ones((1, 1))
    if divisions is None:
        divisions = next(d for d in itertools.count(1) if math.comb(d + m - 1, m - 1) >= 500)
    # Bars between the units of one objective and the next.
    bars = np.array(list(itertools.combinations(range(divisions + m - 1), m - 1)))
    ends = np.full((len(bars), 1), divisions + m - 1)
    counts = np.diff(np.hstack([np.full_like(ends, -1), bars, ends]), axis=1) - 1
    return np.asarray(counts / divisions, dtype=np.float64)


def _pair(Y_nm: npt.ArrayLike, reference_rm: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    Y, reference = point_matrix(Y_nm), point_matrix(reference_rm)
    if not len(Y) or not len(reference):
        raise ValueError(
            f"expected one point or more on both sides, got {len(Y)} and {len(reference)}"
        )
    if Y.shape[1] != reference.shape[1]:
        raise ValueError(
            f"expected as many objectives on both sides, got {Y.shape[1]} and {reference.shape[1]}"
        )
    return Y, reference


def _blocks(rows: FloatArray, other: int) -> list[FloatArray]:
    """Rows in parts whose product with ``other`` rows fits into memory."""
    size = max(_CELLS // max(other * rows.shape[1], 1), 1)
    return [rows[i : i + size] for i in range(0, len(rows), size)]
