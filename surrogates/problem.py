"""Problem: a benchmark's metrics on one device as a multi-objective problem that any searcher can be tried on.

n points, d choices, m objectives, s seeds, b evaluations.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from search_spaces import SearchSpace
from surrogates.additive.choices import ChoiceVectors
from surrogates.additive.encoding import Encoded, IntArray
from surrogates.base import FloatArray
from surrogates.dominance import non_dominated_mask, normalized_hypervolume
from surrogates.evolution import NSGA2

_SAMPLE = 20_000  # random architectures that set the bounds
_GENERATIONS, _POPULATION = 80, 250
_EVALUATIONS = 400_000  # of Pareto local search after that, at most
_WIDEST = 400  # points whose neighbors a sweep tries
_MOST = {2: 2000}  # points that stand for the front; a thinner one loses less than the search does
_MOST_OF_MANY = 500


@dataclass(frozen=True, eq=False)
class Problem:
    """Several metrics of one space, all minimized and known for every architecture.

    Args:
        name: of the benchmark, the device and the metrics.
        metrics: what is minimized, in the order of the columns.
        choices: the space as choice vectors.
        function: encoded architectures to values of shape (n, m).
    """

    name: str
    metrics: tuple[str, ...]
    choices: ChoiceVectors
    function: Callable[[Encoded], FloatArray]

    @property
    def space(self) -> SearchSpace:
        """The search space."""
        return self.choices.encoder.space

    @property
    def sizes_d(self) -> IntArray:
        """Bounds: choice c is a whole number from 0 to ``sizes_d[c] - 1``."""
        return self.choices.sizes_d

    def distributions(self) -> dict[str, Any]:
        """Optuna's distributions, for ``study.ask(problem.distributions())``."""
        from optuna.distributions import CategoricalDistribution

        return {name: CategoricalDistribution(v) for name, v in self.space.to_optuna().items()}

    def codes(self, params: Mapping[str, Any]) -> IntArray:
        """The choice vector of an Optuna trial's parameters, shape (1, d).

        Raises:
            ValueError: if a choice is missing or has a value that is not offered.
        """
        try:
            return np.array([[c.values.index(params[c.name]) for c in self.space.choices]])
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"expected a value for each choice of space {self.space.name!r}, got {dict(params)}: {error}"
            ) from None

    def __call__(self, codes_nd: IntArray) -> FloatArray:
        """Values of choice vectors, shape (n, m).

        Raises:
            ValueError: if a number names no value of its choice.
        """
        return self.function(self.choices.decode(codes_nd))

    @cached_property
    def _bounds(self) -> tuple[FloatArray, FloatArray]:
        sample = self(self.choices.sample(_SAMPLE, np.random.default_rng(0)))
        return np.minimum(sample.min(axis=0), self.front[1].min(axis=0)), sample.max(axis=0)

    @property
    def ideal_m(self) -> FloatArray:
        """Least value of each objective, on the best known front or among 20 000 random architectures."""
        return self._bounds[0]

    @property
    def ref_point_m(self) -> FloatArray:
        """Greatest value of each objective among 20 000 random architectures: the reference point."""
        return self._bounds[1]

    def normalize(self, values_nm: FloatArray) -> FloatArray:
        """Values as shares of the box from the ideal (0) to the reference point (1)."""
        scaled: FloatArray = (values_nm - self.ideal_m) / (self.ref_point_m - self.ideal_m)
        return scaled

    @cached_property
    def front(self) -> tuple[IntArray, FloatArray]:
        """The best known front, choice vectors [f, d] and values [f, m], sorted by the first objective.

        Found by NSGA-II (20 000 evaluations) and then Pareto local search until no neighbor of any of its points adds anything, or 400 000
        evaluations are spent; thinned to 2000 points (500 with three objectives or more). It is a lower bound of the true one.
        """
        searcher = NSGA2(self.sizes_d, seed=0, population=_POPULATION)
        codes, values = [], []
        for _ in range(_GENERATIONS):
            asked = searcher.ask()
            told = self(asked)
            searcher.tell(asked, told)
            codes.append(asked)
            values.append(told)
        most = _MOST.get(len(self.metrics), _MOST_OF_MANY)
        best, value = _archive(np.concatenate(codes), np.concatenate(values), most)
        tried: set[bytes] = set()
        spent = 0
        while spent < _EVALUATIONS:
            fresh = [i for i in range(len(best)) if best[i].tobytes() not in tried]
            if not fresh:
                break
            rows = np.array(fresh)[
                np.linspace(0, len(fresh) - 1, min(len(fresh), _WIDEST)).astype(int)
            ]
            tried |= {best[i].tobytes() for i in rows}
            near = _neighbors(best[rows], self.sizes_d)
            spent += len(near)
            both = np.concatenate([best, near]), np.concatenate([value, self(near)])
            best, value = _archive(*both, most)
        order = np.lexsort(value.T[::-1])
        return best[order], value[order]

    @cached_property
    def best_hypervolume(self) -> float:
        """Hypervolume of the best known front, as a share of the box from the ideal to the reference point."""
        return self.hypervolume(self.front[1])

    def hypervolume(self, values_nm: FloatArray) -> float:
        """Hypervolume as a share of that box."""
        return float(normalized_hypervolume(values_nm, self.ideal_m, self.ref_point_m))

    def trajectory(self, values_bm: FloatArray) -> FloatArray:
        """Hypervolume after each evaluation, shape (b,)."""
        if values_bm.shape[1] == 2:
            return _staircase(np.maximum(self.normalize(values_bm), 0.0))
        found = np.zeros(len(values_bm))
        kept: FloatArray = np.zeros((0, len(self.metrics)))
        volume = 0.0
        for i, value_m in enumerate(values_bm):
            if not np.any(np.all(kept <= value_m, axis=1)):
                kept = np.vstack([kept[np.any(kept < value_m, axis=1)], value_m])
                volume = self.hypervolume(kept)
            found[i] = volume
        return found


def _staircase(points_b2: FloatArray) -> FloatArray:
    """Area below (1, 1) that the first i of b points dominate, for every i: each new point adds its step to a sorted staircase."""
    # between a wall that is higher than every point and the reference point, right of every point
    xs, ys = [-math.inf, 1.0], [1.0, -math.inf]
    area, found = 0.0, np.zeros(len(points_b2))
    for i, (x, y) in enumerate(points_b2.tolist()):
        stop = bisect.bisect_right(xs, x)
        height = ys[stop - 1]  # of the staircase at x
        if x < 1.0 and y < height:
            start = stop - (xs[stop - 1] == x)  # a point straight above is dominated too
            left = x
            while ys[stop] >= y:
                area += (xs[stop] - left) * (height - y)
                left, height = xs[stop], ys[stop]
                stop += 1
            area += (xs[stop] - left) * (height - y)
            xs[start:stop], ys[start:stop] = [x], [y]
        found[i] = area
    return found


def _archive(codes: IntArray, values: FloatArray, most: int) -> tuple[IntArray, FloatArray]:
    """What none dominates, equal values once; of too many, one for each box of a grid, and the best of each objective."""
    _, first = np.unique(values, axis=0, return_index=True)
    codes, values = codes[first], values[first]
    kept = non_dominated_mask(values)
    codes, values = codes[kept], values[kept]
    scaled = (values - values.min(axis=0)) / np.maximum(np.ptp(values, axis=0), 1e-300)
    ends = np.unique(values.argmin(axis=0))
    boxes = most
    while len(values) > most and boxes > 1:
        _, rows = np.unique(np.floor(scaled * boxes).astype(np.int64), axis=0, return_index=True)
        rows = np.union1d(rows, ends)
        if len(rows) <= most:
            return codes[rows], values[rows]
        boxes = int(boxes / 1.3)
    return codes, values


def _neighbors(codes_nd: IntArray, sizes_d: IntArray) -> IntArray:
    """All choice vectors that differ in one choice."""
    found = []
    for place, size in enumerate(sizes_d):
        for step in range(1, size):
            moved = codes_nd.copy()
            moved[:, place] = (moved[:, place] + step) % size
            found.append(moved)
    return np.unique(np.concatenate(found), axis=0)
