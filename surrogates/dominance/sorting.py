"""Which points are non-dominated, and on which front every point lies. Everything is minimized.

From three objectives on, dominance is decided for dozens of points at once by the bits of a word. Distinct points are sorted
lexicographically, so that only earlier ones dominate. Of a few dozen of these (the head), a table for each objective tells which are no
worse at each place in the order of that objective; the words of a later point, joined by "and" over the objectives, hold a bit for every
point of the head that dominates it. Sets of dominating points as bits are those of the merge non-dominated sort (Moreno et al. 2021, IEEE
Transactions on Cybernetics 51(12)), laid out here for array operations: n^2 / 64 words for each objective but the first, no n^2 memory.

n points, m objectives, u distinct points, h points of the head.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
import numpy.typing as npt

from surrogates.base import BoolArray, FloatArray
from surrogates.dominance.points import IntArray, distinct_rows, point_matrix

_WORD = 64  # bits of a word
# Bits of a word whose value a float64 holds exactly: its exponent then tells the highest bit.
_EXACT = 52
_UintArray = npt.NDArray[np.uint64]


def non_dominated_mask(Y_nm: npt.ArrayLike) -> BoolArray:
    """Mark the points that no other dominates; of equal points all are marked.

    Args:
        Y_nm: n points, m objectives, minimized.

    Returns:
        A mask of shape (n,). Two objectives cost n log n; from three on, n times the size of the front / 64 at most.

    Raises:
        ValueError: if ``Y_nm`` is not a matrix or holds NaN or infinity.
    """
    points = point_matrix(Y_nm)
    if len(points) == 0:
        return np.zeros(0, dtype=np.bool_)
    rows, places = distinct_rows(points)
    return _front(rows)[places]


def _front(rows_um: FloatArray) -> BoolArray:
    u, m = rows_um.shape
    mask = np.zeros(u, dtype=np.bool_)
    if m <= 2:  # by the first objective: dominated by any before that is no worse in the second
        mask[0] = True
        if m == 2:
            least = np.minimum.accumulate(rows_um[:, 1])
            mask[1:] = rows_um[1:, 1] < least[:-1]
        return mask
    rest = np.arange(u)
    places = _places(rows_um)
    num_places = u
    while len(rest):
        head, rest = rest[:_WORD], rest[_WORD:]
        alone = ~_dominates(rows_um[head]).any(axis=0)
        mask[head[alone]] = True
        if len(rest):
            words = _words(places[:, :_WORD][:, alone], places[:, _WORD:], num_places)
            left = words == 0
            places = places[:, _WORD:]
            if not left.all():
                rest, places = rest[left], places[:, left]
            if len(rest) < num_places // 2:  # tables as long as what is left
                places, num_places = _places(rows_um[rest]), len(rest)
    return mask


def non_dominated_rank(Y_nm: npt.ArrayLike) -> IntArray:
    """Front of each point: 0 for those that none dominates, 1 for those that only they dominate, and so on (Deb et al. 2002).

    Args:
        Y_nm: n points, m objectives, minimized; equal points have equal ranks.

    Returns:
        Ranks of shape (n,). Two objectives cost n log n; from three on, n^2 / 52 words for each objective but the first,
        whatever the fronts look like.

    Raises:
        ValueError: if ``Y_nm`` is not a matrix or holds NaN or infinity.
    """
    points = point_matrix(Y_nm)
    if len(points) == 0:
        return np.zeros(0, dtype=np.int64)
    rows, places = distinct_rows(points)
    m = rows.shape[1]
    if m == 1:
        return places
    return (_ranks_of_two(rows) if m == 2 else _ranks(rows))[places]


def _ranks_of_two(rows_u2: FloatArray) -> IntArray:
    """Each point joins the first front whose least second objective is above its own; these least values rise with the rank."""
    least: list[float] = []
    ranks = np.empty(len(rows_u2), dtype=np.int64)
    for i, y in enumerate(rows_u2[:, 1].tolist()):
        rank = bisect_right(least, y)
        ranks[i] = rank
        if rank == len(least):
            least.append(y)
        else:
            least[rank] = y
    return ranks


def _ranks(rows_um: FloatArray) -> IntArray:
    """One more than the highest rank among the points that dominate a point; heads are final when their turn comes."""
    u = len(rows_um)
    ranks = np.zeros(u, dtype=np.int64)
    places = _places(rows_um)
    num_places, first = u, 0  # the columns of ``places`` are the points from ``first`` on
    for start in range(0, u, _EXACT):
        stop = min(start + _EXACT, u)
        head = ranks[start:stop]
        dominates = _dominates(rows_um[start:stop])
        for i in np.flatnonzero(dominates.any(axis=1)):
            np.maximum(head, dominates[i] * (head[i] + 1), out=head)
        if stop == u:
            break
        if u - start < num_places // 2:
            first, num_places = start, u - start
            places = _places(rows_um[start:])
        by_rank = np.argsort(head, kind="stable")
        at = places[:, start - first : stop - first][:, by_rank]
        words = _words(at, places[:, stop - first :], num_places)
        # The highest bit is the dominating point of the highest rank; the exponent of a word's value says which it is.
        highest = words.astype(np.float64).view(np.int64) >> 52
        np.maximum(highest - 1022, 0, out=highest)  # 0: no bit, 1: the lowest
        one_more = np.concatenate([[0], head[by_rank] + 1])
        np.maximum(ranks[stop:], one_more[highest], out=ranks[stop:])
    return ranks


def _dominates(rows_hm: FloatArray) -> BoolArray:
    """Which of few lexicographically sorted distinct points (rows) dominate which (columns)."""
    h, m = rows_hm.shape
    dominates = np.tri(h, k=-1, dtype=np.bool_).T
    for j in range(1, m):
        dominates &= rows_hm[:, j, None] <= rows_hm[None, :, j]
    return dominates


def _places(rows_um: FloatArray) -> IntArray:
    """Place of each point in the order of each objective but the first, shape (m - 1, u); equal values share one."""
    u, m = rows_um.shape
    places = np.empty((m - 1, u), dtype=np.int64)
    for j in range(1, m):
        order = np.argsort(rows_um[:, j], kind="stable")
        ordered = rows_um[order, j]
        places[j - 1, order] = np.cumsum(np.concatenate([[False], ordered[1:] != ordered[:-1]]))
    return places


def _words(head_jh: IntArray, later_jq: IntArray, num_places: int) -> _UintArray:
    """For each later point a word with bit i set where point i of the head is no worse in every objective."""
    h = head_jh.shape[1]
    bits = np.left_shift(np.uint64(1), np.arange(h, dtype=np.uint64))
    words: _UintArray | None = None
    for head_h, later_q in zip(head_jh, later_jq, strict=True):
        order = np.argsort(head_h, kind="stable")
        steps = np.zeros(h + 1, dtype=np.uint64)
        np.bitwise_or.accumulate(bits[order], out=steps[1:])
        lengths = np.diff(head_h[order], prepend=0, append=num_places)
        found = np.repeat(steps, lengths)[later_q]
        words = found if words is None else np.bitwise_and(words, found, out=words)
    assert words is not None
    return words
