"""Hypervolume subset selection: the k points that together dominate the most. Everything is minimized.

n points, m objectives, c candidates (distinct non-dominated points below the reference point).
"""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from surrogates.base import FloatArray
from surrogates.dominance import hypervolume, non_dominated_mask
from surrogates.dominance.hypervolume import volume_below
from surrogates.dominance.points import IntArray, points_below

_MOST_SUBSETS = (
    5_000  # tried one by one: a tenth of a second for three objectives, half a second for four
)


@dataclass(frozen=True)
class SubsetSelection:
    """Points chosen of a set.

    Args:
        rows: of the chosen points, rising.
        hypervolume: of the chosen points.
        is_exact: whether no other subset of the size has more; otherwise this one has at least 1 - 1/e (63 %) of the most.
    """

    rows: tuple[int, ...]
    hypervolume: float
    is_exact: bool


def select_subset(Y_nm: npt.ArrayLike, ref_point_m: npt.ArrayLike, k: int) -> SubsetSelection:
    """Choose k points with the most hypervolume.

    One or two objectives: exact, by dynamic programming over the front in the order of the first objective (Kuhn et al. 2016, Evolutionary
    Computation 24(3); Bringmann, Friedrich & Klitzke 2014, GECCO), in k c log c. From three on: exact by enumeration where there are at
    most 5 000 subsets, otherwise greedy, each next point the one that adds the most, which has at least 1 - 1/e of the most hypervolume
    (Nemhauser, Wolsey & Fisher 1978; Guerreiro, Fonseca & Paquete 2016, Evolutionary Computation 24(3)). Of equal choices the one with
    the earlier rows is made, so that the same points give the same subset.

    Args:
        Y_nm: n points, m objectives; dominated and repeated points are allowed, and chosen last, as are those not below the
            reference point.
        ref_point_m: the worst values that still count.
        k: how many to choose; all if there are no more.

    Raises:
        ValueError: if ``k`` is below 1, a value is not finite, or the shapes disagree.
    """
    points, ref, inside = points_below(Y_nm, ref_point_m)
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ValueError(f"expected to choose k of 1 or more points, got {k!r}")
    k = min(int(k), len(points))
    candidates = _candidates(points, np.flatnonzero(inside))
    is_exact = True
    if len(candidates) <= k:
        chosen = candidates.tolist()
    elif points.shape[1] <= 2:
        chosen = _of_two(points[candidates], ref, k, candidates)
    elif math.comb(len(candidates), k) <= _MOST_SUBSETS:
        chosen = _enumerated(points[candidates], ref, k, candidates)
    else:
        chosen = _greedy(points[candidates], ref, k, candidates)
        is_exact = k == 1  # the one point with the largest box
    others = [i for i in range(len(points)) if i not in set(chosen)]
    chosen = sorted([*chosen, *others[: k - len(chosen)]])
    volume = float(hypervolume(points[chosen], ref))
    return SubsetSelection(tuple(chosen), volume, is_exact)


def _candidates(points_nm: FloatArray, rows: IntArray) -> IntArray:
    """Of each distinct non-dominated point the first row."""
    if not len(rows):
        return rows
    front = rows[non_dominated_mask(points_nm[rows])]
    _, first = np.unique(points_nm[front] + 0.0, axis=0, return_index=True)  # -0.0 is 0.0
    return np.sort(front[first])


def _of_two(points_cm: FloatArray, ref_m: FloatArray, k: int, rows: IntArray) -> list[int]:
    """The best subset of at most j points that ends at each point, from that of j - 1 points that ends further left.

    A point at ``i`` after one at ``l`` adds ``(ref_x - x_i) (y_l - y_i)``. The further right ``i``, the further right its best ``l``
    (the products form an inverse Monge matrix), so the middle point's best halves the choices of the others.
    """
    if points_cm.shape[1] == 1:
        return [int(rows[np.argmin(points_cm[:, 0])])]
    order = np.argsort(points_cm[:, 0], kind="stable")
    # Before the first point stands a virtual one of no width at the height of the reference point.
    width = np.append(0.0, ref_m[0] - points_cm[order, 0])
    y = np.append(ref_m[1], points_cm[order, 1])
    best = np.append(0.0, width[1:] * (ref_m[1] - y[1:]))
    previous = [np.zeros(len(y), dtype=np.int64)]
    for _ in range(k - 1):
        found, before = np.zeros(len(y)), np.zeros(len(y), dtype=np.int64)
        todo = [(1, len(y), 0, len(y))]
        while todo:
            low, high, first, last = todo.pop()
            middle = (low + high) // 2
            choices = slice(first, min(middle, last))
            added = best[choices] + width[middle] * (y[choices] - y[middle])
            at = first + int(np.argmax(added))
            found[middle], before[middle] = added[at - first], at
            if low < middle:
                todo.append((low, middle, first, at + 1))
            if middle + 1 < high:
                todo.append((middle + 1, high, at, last))
        best = found
        previous.append(before)
    end = int(np.argmax(best))
    chosen = []
    for before in reversed(previous):
        if end == 0:
            break
        chosen.append(int(rows[order[end - 1]]))
        end = int(before[end])
    return chosen


def _enumerated(points_cm: FloatArray, ref_m: FloatArray, k: int, rows: IntArray) -> list[int]:
    """The first of the best subsets, in the order of their rows."""
    most, chosen = -1.0, tuple(range(k))
    for subset in itertools.combinations(range(len(rows)), k):
        volume = volume_below(points_cm[list(subset)], ref_m)
        if volume > most:
            most, chosen = volume, subset
    return [int(rows[i]) for i in chosen]


def _greedy(points_cm: FloatArray, ref_m: FloatArray, k: int, rows: IntArray) -> list[int]:
    """What a point adds only shrinks as others join, so an old gain is a bound and few have to be computed anew (Minoux 1978)."""
    gains = np.prod(ref_m - points_cm, axis=1)
    queue = [(-gain, i, 0) for i, gain in enumerate(gains.tolist())]
    heapq.heapify(queue)
    chosen: list[int] = []
    volume = 0.0
    while len(chosen) < k:
        gain, i, known = heapq.heappop(queue)
        if known == len(chosen):
            chosen.append(i)
            volume = volume_below(points_cm[chosen], ref_m)
            continue
        gain = volume_below(points_cm[[*chosen, i]], ref_m) - volume
        heapq.heappush(queue, (-gain, i, len(chosen)))
    return [int(rows[i]) for i in chosen]
