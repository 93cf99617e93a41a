"""Pareto dominance and exact hypervolume of arrays. Everything is minimized.

n points, m objectives. ``a`` dominates ``b`` when it is nowhere worse and somewhere better; equal points do not dominate each
other. The hypervolume is the volume of the part of the space that some point dominates and that dominates ``ref_point``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from surrogates.base import BoolArray, FloatArray


class Hypervolume(float):
    """A hypervolume, usable as the number it is, that also tells what it does not count.

    Attributes:
        num_beyond: points that exceed ``ref_point`` in some objective and so add nothing.
        num_clipped: points that were better than the ideal in some objective and were moved onto it
            (only when normalized).
    """

    num_beyond: int
    num_clipped: int

    def __new__(cls, volume: float, num_beyond: int = 0, num_clipped: int = 0) -> Hypervolume:
        value = super().__new__(cls, volume)
        value.num_beyond = num_beyond
        value.num_clipped = num_clipped
        return value

    def __getnewargs__(self) -> tuple[float, int, int]:  # type: ignore[override]  # copies keep the counts
        return float(self), self.num_beyond, self.num_clipped


def _matrix(Y_nm: npt.ArrayLike) -> FloatArray:
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


def non_dominated_mask(Y_nm: npt.ArrayLike) -> BoolArray:
    """Mark the points that no other dominates; of equal points all are marked.

    Args:
        Y_nm: n points, m objectives, minimized.

    Returns:
        A mask of shape (n,).

    Raises:
        ValueError: if ``Y_nm`` is not a matrix or holds NaN or infinity.
    """
    points = _matrix(Y_nm)
    if len(points) == 0:
        return np.zeros(0, dtype=np.bool_)
    # np.unique sorts lexicographically: a point can only be dominated by one before it, so each point that is still alive when its
    # turn comes is on the front, and the loop runs over the front, not over all points.
    unique, inverse = np.unique(points, axis=0, return_inverse=True)
    if (
        points.shape[1] == 2
    ):  # sorted by the first: dominated by any before that is no worse in the second
        least = np.minimum.accumulate(unique[:, 1])
        alone: BoolArray = np.concatenate([[True], unique[1:, 1] < least[:-1]])
        return alone[inverse.reshape(-1)]
    alive = np.arange(len(unique))
    front: list[int] = []
    while len(alive):
        head, alive = alive[0], alive[1:]
        front.append(int(head))
        alive = alive[np.any(unique[alive] < unique[head], axis=1)]
    mask = np.zeros(len(unique), dtype=np.bool_)
    mask[front] = True
    return mask[inverse.reshape(-1)]


def _volume(points: FloatArray, ref: FloatArray) -> float:
    """Hypervolume of points that are below ``ref`` in every objective."""
    points = np.unique(points[non_dominated_mask(points)], axis=0)
    n, m = points.shape
    if n == 0:
        return 0.0
    if n == 1 or m == 1:
        return float(np.prod(ref - points[0]))
    if m > 3:
        return _slice(points, ref)
    return _grid(points, ref)


def _slice(points: FloatArray, ref: FloatArray) -> float:
    """Sum over the slabs between consecutive values of the last objective (HSO, While et al. 2006, TEC 10(1), sec. IV)."""
    points = points[np.argsort(points[:, -1], kind="stable")]
    heights = np.diff(np.append(points[:, -1], ref[-1]))
    return float(
        sum(
            _volume(points[: i + 1, :-1], ref[:-1]) * height
            for i, height in enumerate(heights)
            if height
        )
    )


def _grid(points: FloatArray, ref: FloatArray) -> float:
    """Two or three objectives: over each cell of the grid of the other objectives' values, the depth is the least dominating y_m.

    Only positive terms are added, so nothing cancels: integers come out exact.
    """
    axes = [np.unique(points[:, j]) for j in range(points.shape[1] - 1)]
    depth = np.full([len(axis) for axis in axes], ref[-1])
    cells = tuple(np.searchsorted(axis, points[:, j]) for j, axis in enumerate(axes))
    np.minimum.at(depth, cells, points[:, -1])
    volume = depth
    for j in range(len(axes)):
        volume = np.minimum.accumulate(volume, axis=j)
    volume = ref[-1] - volume
    for j in reversed(range(len(axes))):
        volume = volume @ np.diff(np.append(axes[j], ref[j]))
    return float(volume)


def hypervolume(Y_nm: npt.ArrayLike, ref_point_m: npt.ArrayLike) -> Hypervolume:
    """Exact hypervolume of points that are minimized; cost n^(m-1) for m >= 2, meant for 2 to 4 objectives.

    Args:
        Y_nm: n points, m objectives, in any order; dominated and repeated points are allowed.
        ref_point_m: the worst values that still count.

    Returns:
        The volume, with ``num_beyond``: the points that exceed ``ref_point_m`` somewhere (a point
        on it does not).

    Raises:
        ValueError: if a value is not finite or the shapes disagree.
    """
    points = _matrix(Y_nm)
    ref = np.asarray(ref_point_m, dtype=np.float64)
    if ref.ndim != 1 or not np.all(np.isfinite(ref)) or ref.size == 0:
        raise ValueError(f"expected a finite ref_point of shape (m,), got {ref.tolist()}")
    if len(points) == 0:
        return Hypervolume(0.0)
    if points.shape[1] != len(ref):
        raise ValueError(
            f"expected a ref_point with {points.shape[1]} values like the points, got {len(ref)}"
        )
    beyond = np.any(points > ref, axis=1)
    inside = np.all(points < ref, axis=1)
    return Hypervolume(_volume(points[inside], ref), int(beyond.sum()))


def normalized_hypervolume(
    Y_nm: npt.ArrayLike, ideal_m: npt.ArrayLike, ref_point_m: npt.ArrayLike
) -> Hypervolume:
    """Hypervolume as a share of the box from ``ideal_m`` to ``ref_point_m``, in [0, 1].

    Args:
        Y_nm: n points, m objectives, minimized.
        ideal_m: the best value of each objective; points better than it are moved onto it and
            counted in ``num_clipped``.
        ref_point_m: the worst values that still count.

    Raises:
        ValueError: if a value is not finite, the shapes disagree, or the ideal is not below
            ``ref_point_m`` everywhere.
    """
    points = _matrix(Y_nm)
    ideal, ref = np.asarray(ideal_m, dtype=np.float64), np.asarray(ref_point_m, dtype=np.float64)
    if ideal.shape != ref.shape or ideal.ndim != 1 or not np.all(ideal < ref):
        raise ValueError(
            f"expected an ideal below ref_point in every objective, got {ideal.tolist()} and {ref.tolist()}"
        )
    if len(points) == 0:
        return Hypervolume(0.0)
    if points.shape[1] != len(ref):
        raise ValueError(
            f"expected a ref_point with {points.shape[1]} values like the points, got {len(ref)}"
        )
    scaled = (np.maximum(points, ideal) - ideal) / (ref - ideal)
    # The division may round a point just beyond ref_point onto 1, so the count is made on the raw values.
    volume = hypervolume(scaled, np.ones(len(ref)))
    beyond, clipped = (
        int(np.any(points > ref, axis=1).sum()),
        int(np.any(points < ideal, axis=1).sum()),
    )
    return Hypervolume(min(1.0, float(volume)), beyond, clipped)
