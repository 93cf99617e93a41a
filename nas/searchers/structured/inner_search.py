"""The inner search: a vectorized evolutionary search over the space with a score that costs microseconds, then neighbor moves.

n points, d parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import qmc

from nas.searchers.parameters import ParameterSpace

FloatArray = npt.NDArray[np.float64]
Score = Callable[[FloatArray], FloatArray]  # X_nd -> score_n, larger is better
Canonical = Callable[[FloatArray], FloatArray]
_TILT = 2.0


def family_draws(
    space: ParameterSpace, family_d: npt.NDArray[np.int64], rng: np.random.Generator, n: int
) -> FloatArray:
    """Points whose families lean to one side each, n of them, spread by a Latin hypercube over the leanings.

    Independent uniform draws of many alike parameters all have about the same sum; what a family does as a whole (twelve layers
    narrow, or all wide) is then never seen, and the ends of a front never reached.

    Args:
        space: the parameters.
        family_d: number of the family of each parameter.
        rng: source of every random choice.
        n: points.
    """
    families, members = np.unique(family_d, return_counts=True)
    lean_ng = qmc.LatinHypercube(len(families), rng=rng).random(n)
    U = rng.random((n, space.dim))
    points = np.empty((n, space.dim))
    for g, (family, size) in enumerate(zip(families, members, strict=True)):
        columns = np.flatnonzero(family_d == family)
        first = space.parameters[columns[0]]
        lean = np.clip(lean_ng[:, g], 1e-6, 1.0 - 1e-6)
        if size == 1:
            points[:, columns[0]] = lean
            continue
        tilt = _TILT * np.log(lean / (1.0 - lean))
        if first.ordered or first.size < 2:  # density proportional to exp(tilt u), by its inverse
            t = np.where(np.abs(tilt) < 1e-6, 1e-6, tilt)[:, None]
            points[:, columns] = np.log1p(U[:, columns] * np.expm1(t)) / t
            continue
        order = np.argsort(rng.random((n, first.size)), axis=1)  # leans to random values first
        weight = np.exp(-np.abs(tilt)[:, None] * np.arange(first.size) / (first.size - 1))
        edge = np.cumsum(weight / weight.sum(axis=1, keepdims=True), axis=1)
        drawn = (U[:, columns][:, :, None] > edge[:, None, :-1]).sum(axis=2)
        points[:, columns] = (np.take_along_axis(order, drawn, axis=1) + 0.5) / first.size
    return space.at(np.minimum(points, 1.0 - 1e-12))


def corners(space: ParameterSpace, rng: np.random.Generator) -> FloatArray:
    """The points with every ordered parameter at its first value, and at its last; unordered ones are drawn. Shape (2, d).

    In a space of sizes they are the smallest and the largest: the ends of the front, and the worst values of it.
    """
    points = space.random(rng, 2)
    for i, parameter in enumerate(space.parameters):
        if parameter.ordered:
            points[:, i] = 0.0, 1.0 if parameter.values is None else parameter.size - 1
    return points


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
