"""Exact hypervolume improvement over many two-objective fronts at once, a logarithm of the front's size for each candidate.

Below the reference point the region that no point dominates is a row of strips (nas/searchers/boxes.py): strip i reaches from lower_i to
upper_i in the first objective and below height_i in the second, and heights fall from left to right.  A candidate (y_1, y_2) gains in
the strips p..q between the one that holds y_1 and the last one that is higher than y_2,

    (upper_p - y_1)(height_p - y_2) + sum_{p < i < q} (upper_i - lower_i)(height_i - y_2),

and the sum is a difference of running totals: two binary searches instead of a pass over the strips.  All strips of all fronts come from
one sort, so that a decomposition costs less than looking one up would.

S fronts, k points in each, n candidates. Everything is minimized.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

FloatArray = npt.NDArray[np.float64]


class Staircases:
    """The strips of S fronts.

    Args:
        Y_Sk2: points of each front, dominated ones among them allowed.
        ref_point_2: the worst values that still count.
    """

    def __init__(self, Y_Sk2: FloatArray, ref_point_2: FloatArray) -> None:
        self._ref = ref_point_2
        # a point beyond the reference point bounds strips of no width or of no less height
        Y = np.minimum(Y_Sk2, ref_point_2)
        order = np.argsort(Y[..., 0], axis=1, kind="stable")
        first, second = (np.take_along_axis(Y[..., j], order, axis=1) for j in (0, 1))
        column = np.ones((len(Y), 1))
        self.lower = np.concatenate([-np.inf * column, first], axis=1)
        self.upper = np.concatenate([first, ref_point_2[0] * column], axis=1)
        lowest = np.minimum.accumulate(second, axis=1)
        self.height = np.concatenate([ref_point_2[1] * column, lowest], axis=1)
        width = self.upper - self.lower
        width[:, 0] = 0.0  # infinite; never between two others
        self._widths = np.cumsum(width, axis=1)
        self._areas = np.cumsum(width * self.height, axis=1)

    def boxes(self) -> tuple[FloatArray, FloatArray]:
        """The strips as boxes: lower and upper bounds, shape (S, k + 1, 2), some of them empty."""
        bottom = np.full_like(self.lower, -np.inf)
        return np.stack([self.lower, bottom], axis=2), np.stack([self.upper, self.height], axis=2)

    def improvement(self, Y_Sn2: FloatArray) -> FloatArray:
        """Volume that each candidate alone adds to each front, shape (S, n)."""
        y1, y2 = (np.ascontiguousarray(Y_Sn2[..., j]) for j in (0, 1))
        starts = torch.from_numpy(np.ascontiguousarray(self.lower[:, 1:]))
        p = torch.searchsorted(starts, torch.from_numpy(y1), right=True).numpy()
        falling = torch.from_numpy(-self.height)
        q = torch.searchsorted(falling, torch.from_numpy(-y2)).numpy() - 1
        gains = (q >= p) & (y1 < self._ref[0])
        q = np.maximum(q, p)

        def at(values: FloatArray, index: npt.NDArray[np.int64]) -> FloatArray:
            return np.take_along_axis(values, index, axis=1)

        found = (at(self.upper, p) - y1) * (at(self.height, p) - y2)
        found += at(self._areas, q) - at(self._areas, p)
        found -= y2 * (at(self._widths, q) - at(self._widths, p))
        return np.where(gains, np.maximum(found, 0.0), 0.0)
