"""JudgedProblem: what a searcher is tried on, with the truth it is judged by.

m objectives, n points, b evaluations of a run. Everything is minimized.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection

from nas.pareto import non_dominated_mask, normalized_hypervolume
from surrogates.base import BoolArray, FloatArray
from surrogates.problem import Problem

Params = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Box:
    """What hypervolumes are shares of.

    Args:
        ideal_m: best value of each objective.
        ref_point_m: worst value of each that still counts.
        best: hypervolume of the best known front, as a share of the box between the two.
        source: how that front is known: ``closed form``, ``enumeration``, or a search that gives a lower bound.
    """

    ideal_m: FloatArray
    ref_point_m: FloatArray
    best: float
    source: str

    def share(self, values_nm: npt.ArrayLike) -> float:
        """Hypervolume of points as a share of the best known front's."""
        values = np.asarray(values_nm, dtype=np.float64).reshape(-1, len(self.ideal_m))
        if not len(values):
            return 0.0
        return float(normalized_hypervolume(values, self.ideal_m, self.ref_point_m)) / self.best

    def trajectory(
        self, values_bm: FloatArray, feasible_b: npt.NDArray[np.bool_] | None = None
    ) -> FloatArray:
        """Share after each evaluation, shape (b,); infeasible points add nothing."""
        found = np.zeros(len(values_bm))
        kept: FloatArray = np.zeros((0, len(self.ideal_m)))
        share = 0.0
        for i, value_m in enumerate(values_bm):
            counts = feasible_b is None or bool(feasible_b[i])
            if counts and not np.any(np.all(kept <= value_m, axis=1)):
                kept = np.vstack([kept[np.any(kept < value_m, axis=1)], value_m])
                share = self.share(kept)
            found[i] = share
        return found


@dataclass(frozen=True, eq=False)
class JudgedProblem:
    """Objectives over Optuna parameters, all minimized, whose best front is known.

    Args:
        name: as :func:`experiments.searchers.problems.problem` takes it.
        objectives: names of the columns.
        distributions: what ``study.ask`` is given.
        evaluate: parameters to true values, shape (m,).
        box: reference point, ideal and best known hypervolume; of the feasible points where there is a constraint.
        version: digest of everything that the values depend on; runs of another version are another problem's.
        constraint: parameters to a number that is 0 or less where they are feasible; None without one.
        noise: parameters and a seed to the values that a searcher is told; None where it is told the true ones.
        encoded: the same objectives of choice vectors, thousands at once (true values, no constraint); None where there is no such form.
    """

    name: str
    objectives: tuple[str, ...]
    distributions: Mapping[str, BaseDistribution]
    evaluate: Callable[[Params], FloatArray]
    box: Box
    version: str
    constraint: Callable[[Params], float] | None = None
    noise: Callable[[Params, int], FloatArray] | None = None
    encoded: Problem | None = None

    @property
    def directions(self) -> list[StudyDirection]:
        """What ``optuna.create_study`` is given."""
        return [StudyDirection.MINIMIZE] * len(self.objectives)

    def told(self, params: Params, seed: int) -> FloatArray:
        """Values that a searcher is told, shape (m,): the true ones, or one noisy measurement drawn by the seed."""
        return self.evaluate(params) if self.noise is None else self.noise(params, seed)

    def shares(
        self, told_bm: FloatArray, true_bm: FloatArray, feasible_b: BoolArray
    ) -> tuple[FloatArray, FloatArray]:
        """Share of the best known hypervolume after each evaluation, judged in two ways; shapes (b,).

        Returns:
            By the true values of all feasible points so far; and by the true values of those whose *told* values are non-dominated, which
            is what a user of noisy measurements would pick. Without noise the two are the same.
        """
        all_b = self.box.trajectory(true_bm, feasible_b)
        if self.noise is None:
            return all_b, all_b
        picked_b = np.zeros(len(true_bm))
        for i in range(len(true_bm)):
            rows = np.flatnonzero(feasible_b[: i + 1])
            if len(rows):
                picked_b[i] = self.box.share(true_bm[rows[non_dominated_mask(told_bm[rows])]])
        return all_b, picked_b
