"""The inner search: a vectorized evolutionary search over the space with a score that costs microseconds, then neighbor moves.

n points, d parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas.searchers.parameters import ParameterSpace
from nas.searchers.start_design import family_draws

FloatArray = npt.NDArray[np.float64]
Score = Callable[[FloatArray], FloatArray]  # X_nd -> score_n, larger is better
Canonical = Callable[[FloatArray], FloatArray]


@dataclass
class InnerSearch:
    """Looks for the unseen point with the best score.

    Args:
        space: where the points live.
        family_d: families of the parameters, for the first draws.
        canonical: rewrites points that mean the same to one of them.
        seen: keys of points that must not be proposed.
        rng: source of every random choice.
        population: children of one generation.
        generations: of them.
        elite: the best of all that have children.
        climbs: sweeps over all neighbors of the best point.
    """

    space: ParameterSpace
    family_d: npt.NDArray[np.int64]
    canonical: Canonical
    seen: Set[bytes]
    rng: np.random.Generator
    population: int = 200
    generations: int = 7
    elite: int = 40
    climbs: int = 12

    def best(self, score: Score, parents_nd: FloatArray) -> tuple[FloatArray, float] | None:
        """The best unseen point found and its score; None if nothing unseen was met.

        Args:
            score: what to maximize.
            parents_nd: points worth varying, usually the best told so far.
        """
        drawn = family_draws(self.space, self.family_d, self.rng, self.population)
        X = self._distinct(np.concatenate([drawn, parents_nd]))
        values = score(X)
        for generation in range(self.generations):
            top = np.argsort(-values, kind="stable")[: self.elite]
            parents = X[top] if generation else np.concatenate([X[top], parents_nd])
            children = self.space.offspring(parents, self.rng, self.population)
            fresh = self._distinct(children, {self.space.key(x) for x in X[top]})
            X = np.concatenate([X[top], fresh])
            values = np.concatenate([values[top], score(fresh) if len(fresh) else np.zeros(0)])
        free = np.array([self.space.key(x) not in self.seen for x in X])
        if not free.any():
            return None
        X, values = X[free], values[free]
        return self._climb(score, X[int(values.argmax())], float(values.max()))

    def _climb(self, score: Score, x: FloatArray, value: float) -> tuple[FloatArray, float]:
        for _ in range(self.climbs):
            around = self._distinct(self.space.neighbors(x, self.rng), self.seen)
            if not len(around):
                break
            values = score(around)
            i = int(values.argmax())
            if not values[i] > value:
                break
            x, value = around[i], float(values[i])
        return x, value

    def _distinct(self, X_nd: FloatArray, but: Set[bytes] = frozenset()) -> FloatArray:
        """Canonical forms, each once, without those in ``but``."""
        found: dict[bytes, FloatArray] = {}
        for x in self.canonical(X_nd):
            key = self.space.key(x)
            if key not in but:
                found.setdefault(key, x)
        return np.array(list(found.values())).reshape(-1, self.space.dim)
