"""Which architectures are worth the rest of the tokens."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas.constraints import feasible_mask
from nas.fidelity.improvement import expected_improvement
from nas.fidelity.options import Growing
from nas.fidelity.predictions import Predicted, Predictions
from nas.objectives import Evaluation
from nas.pareto import hypervolume, non_dominated_mask
from search_spaces import Architecture

FloatArray = npt.NDArray[np.float64]
PERPLEXITY = "perplexity"
_ROOM = 0.1  # beyond the worst value, where the reference point is moved out
_BROKEN = 10.0  # times the best perplexity, beyond which an architecture is no candidate
_LARGEST = 1e100  # perplexity beyond which all of them are broken
_NEGLIGIBLE = 1e-6  # hypervolume, as a share of all that lies between 0 and the reference point


@dataclass(frozen=True, eq=False)
class _Goal:
    """What counts: values up to the reference point that keep to the constraints."""

    ref_point: FloatArray
    constraints: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Promotions:
    """Choice of promotions by the hypervolume that they are expected to add, for each token still to be paid.

    Args:
        names: of the objectives, perplexity among them; the others are known.
        ref_point: worst values that still count.
        constraints: largest allowed values, by objective.
        options: how fidelity grows.
        full: tokens of a full evaluation.
        predict: what full perplexities are predicted to be.
    """

    names: tuple[str, ...]
    ref_point: FloatArray
    constraints: Mapping[str, float]
    options: Growing
    full: int
    predict: Predictions

    def worth(
        self, full: Sequence[Evaluation], candidates: Sequence[Evaluation], most: int
    ) -> list[Evaluation]:
        """Candidates worth a promotion, the best gain a token first, each given those before it at their predicted values.

        At most ``most`` of them, or one. Gains only shrink as the front grows, so a stale one is an upper bound (lazy greedy,
        Minoux, 1978).

        Args:
            full: evaluations on all tokens.
            candidates: evaluations on fewer, one of each architecture.
            most: promotions there may be.
        """
        guesses = self.predict(full, candidates)
        guessed = {c.architecture: g for c, g in zip(candidates, guesses, strict=True)}
        front_nm, goal = self._front(full), _Goal(self.ref_point, self.constraints)
        if float(hypervolume(front_nm, goal.ref_point)) == 0.0 and candidates:
            inside = [self._gain(c, front_nm, guessed[c.architecture], goal) for c in candidates]
            if max(inside) <= self._least(front_nm, goal):
                front_nm, goal = self._widened(full, candidates, guessed)
        least = self._least(front_nm, goal)
        queue: list[tuple[float, int, int, Evaluation]] = []
        order = itertools.count()

        def push(candidate: Evaluation, size: int) -> None:
            gain = self._gain(candidate, front_nm, guessed[candidate.architecture], goal)
            if gain > least:
                rate = gain / (self.full - (candidate.fidelity or 0))
                heapq.heappush(queue, (-rate, next(order), size, candidate))

        for candidate in candidates:
            push(candidate, 0)
        most_steps = len(queue) * (len(self.options.shares) - 1)
        if 0 < most_steps < most:  # not the end yet: the first alone is asked for
            return [queue[0][3]]
        worth: list[Evaluation] = []
        while queue and len(worth) < max(most, 1):
            _, _, size, candidate = heapq.heappop(queue)
            if size < len(worth):
                push(candidate, len(worth))
                continue
            worth.append(candidate)
            row = self._row(candidate)
            row[self._column] = guessed[candidate.architecture].perplexity
            front_nm = np.concatenate([front_nm, row[None]])
        return worth

    def _gain(
        self, candidate: Evaluation, front_nm: FloatArray, guess: Predicted, goal: _Goal
    ) -> float:
        """Expected hypervolume in the full perplexity's distribution; 0 for what breaks a constraint."""
        ref = goal.ref_point.copy()
        for name, bound in goal.constraints.items():
            if name == PERPLEXITY:  # the part of the distribution beyond the bound gains nothing
                ref[self._column] = min(ref[self._column], bound)
            elif candidate.value(name) > bound:
                return 0.0
        row = self._row(candidate)
        return expected_improvement(front_nm, ref, row, self._column, guess.mean, guess.std)

    def _least(self, front_nm: FloatArray, goal: _Goal) -> float:
        """The gain that a promotion must be worth, also where nothing counts yet."""
        volume = float(hypervolume(front_nm, goal.ref_point))
        return max(self.options.min_gain * volume, _NEGLIGIBLE * float(np.prod(goal.ref_point)))

    def _front(self, full: Sequence[Evaluation]) -> FloatArray:
        """Full evaluations that keep to the constraints, as rows."""
        allowed = feasible_mask(full, self.constraints)
        rows = [self._row(e) for e, keep in zip(full, allowed, strict=True) if keep]
        return np.array(rows, dtype=np.float64).reshape(-1, len(self.names))

    def _widened(
        self,
        full: Sequence[Evaluation],
        candidates: Sequence[Evaluation],
        guessed: Mapping[Architecture, Predicted],
    ) -> tuple[FloatArray, _Goal]:
        """Front and goal where nothing counts, and nothing is expected to: the best there is shall be known all the same.

        The reference moves out to the worst of what is non-dominated by now, and a bound of perplexity, which nothing seems to keep to,
        is left out; bounds of what is known exactly are kept.
        """
        rows = [self._row(e) for e in (*full, *candidates)]
        for row, candidate in zip(rows[len(full) :], candidates, strict=True):
            row[self._column] = guessed[candidate.architecture].perplexity
        known = {n: bound for n, bound in self.constraints.items() if n != PERPLEXITY}
        allowed = feasible_mask([*full, *candidates], known)
        best_nm = np.array(rows)[allowed]
        if len(best_nm):
            best_nm = best_nm[non_dominated_mask(best_nm)]
            best_nm = best_nm[best_nm[:, self._column] <= _BROKEN * best_nm[:, self._column].min()]
        ref = np.maximum(self.ref_point, (1.0 + _ROOM) * best_nm.max(axis=0, initial=0.0))
        if not len(best_nm) or ref[self._column] > _LARGEST:
            return self._front(full), _Goal(self.ref_point, self.constraints)
        return np.array(rows[: len(full)])[allowed[: len(full)]], _Goal(ref, known)

    @property
    def _column(self) -> int:
        return self.names.index(PERPLEXITY)

    def _row(self, evaluation: Evaluation) -> FloatArray:
        return np.array([evaluation.value(name) for name in self.names], dtype=np.float64)
