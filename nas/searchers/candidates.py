"""Maximizing a score over a discrete or mixed space without relaxing it: a pool of candidates, then moves to better neighbors.

n points, d parameters. The score is a function of a batch of points, because an acquisition function costs little more for a
thousand of them than for one.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nas.searchers.parameters import ParameterSpace

FloatArray = npt.NDArray[np.float64]
# X_nd -> score_n, larger is better
Score = Callable[[FloatArray], FloatArray]
# X_nd -> X_nd: one spelling for points that mean the same
Canonical = Callable[[FloatArray], FloatArray]
_MAX_LISTED = 100_000


@dataclass
class Candidates:
    """Draws unseen points and climbs from the best of them.

    Args:
        space: where the points live.
        canonical: rewrites points that mean the same to one of them.
        seen: keys of points that must not be proposed.
        rng: source of every random choice.
        num_random: uniform points in the pool.
        num_offspring: children of ``parents`` in the pool.
        num_starts: pool members that the local search starts from.
        num_moves: neighbors scored by the local search before it stops.
    """

    space: ParameterSpace
    canonical: Canonical
    seen: Set[bytes]
    rng: np.random.Generator
    num_random: int = 256
    num_offspring: int = 768
    num_starts: int = 4
    num_moves: int = 2000
    _scores: dict[bytes, float] = field(default_factory=dict)

    def unseen(self, X_nd: FloatArray) -> FloatArray:
        """The canonical forms of points, each once, without those in ``seen``."""
        found: dict[bytes, FloatArray] = {}
        for x in self.canonical(X_nd):
            key = self.space.key(x)
            if key not in self.seen:
                found.setdefault(key, x)
        return np.array(list(found.values())).reshape(-1, self.space.dim)

    def any_unseen(self) -> FloatArray | None:
        """A random unseen point; None when every point of the space has been used."""
        for size in (1, 64, 1024, 16_384):
            found = self.unseen(self.space.random(self.rng, size))
            if len(found):
                return np.asarray(found[0])
        cardinality = self.space.cardinality
        if cardinality is None or cardinality > _MAX_LISTED:
            return None  # thousands of uniform draws were all seen
        found = self.unseen(self.space.list_points(self.rng.permutation(cardinality)))
        return np.asarray(found[0]) if len(found) else None

    def best(self, score: Score, parents_nd: FloatArray) -> FloatArray | None:
        """The unseen point with the best score found; None when nothing unseen is left.

        Args:
            score: what to maximize.
            parents_nd: points worth varying, usually the non-dominated ones told so far.
        """
        pool = [self.space.random(self.rng, self.num_random)]
        if len(parents_nd):
            pool.append(self.space.offspring(parents_nd, self.rng, self.num_offspring))
        X = self.unseen(np.concatenate(pool))
        if not len(X):
            return self.any_unseen()
        values = self._score(score, X)
        order = np.argsort(-values, kind="stable")[: self.num_starts]
        climbers = [(float(values[i]), X[i]) for i in order]
        active = list(range(len(climbers)))
        budget = self.num_moves
        while active and budget > 0:
            around = [self.unseen(self.space.neighbors(climbers[i][1], self.rng)) for i in active]
            budget -= sum(map(len, around))
            values = self._score(score, np.concatenate(around))
            moved, offset = [], 0
            for i, X_i in zip(active, around, strict=True):
                scores_i = values[offset : offset + len(X_i)]
                offset += len(X_i)
                if len(X_i) and scores_i.max() > climbers[i][0]:
                    climbers[i] = (float(scores_i.max()), X_i[int(scores_i.argmax())])
                    moved.append(i)
            active = moved
        best: FloatArray = max(climbers, key=lambda climber: climber[0])[1]
        return best

    def _score(self, score: Score, X_nd: FloatArray) -> FloatArray:
        """Scores of points, computed once for each."""
        keys = [self.space.key(x) for x in X_nd]
        new = {key: x for key, x in zip(keys, X_nd, strict=True) if key not in self._scores}
        if new:
            values = score(np.array(list(new.values())))
            self._scores.update(zip(new, values.tolist(), strict=True))
        return np.array([self._scores[key] for key in keys])
