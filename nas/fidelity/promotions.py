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
from nas.fidelity.predictions import Predicted, predict_full
from nas.objectives import Evaluation
from nas.pareto import hypervolume

FloatArray = npt.NDArray[np.float64]
PERPLEXITY = "perplexity"
_NEGLIGIBLE = 1e-6  # hypervolume, as a share of all that lies between 0 and the reference point


@dataclass(frozen=True, eq=False)
class Promotions:
    """Choice of promotions by the hypervolume that they are expected to add, for each token still to be paid.

    Args:
        names: of the objectives, perplexity among them; the others are known.
        ref_point: worst values that still count.
        constraints: largest allowed values, by objective.
        options: how fidelity grows.
        full: tokens of a full evaluation.
    """

    names: tuple[str, ...]
    ref_point: FloatArray
    constraints: Mapping[str, float]
    options: Growing
    full: int

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
        allowed = feasible_mask(full, self.constraints)
        front = [self._row(e) for e, keep in zip(full, allowed, strict=True) if keep]
        front_nm = np.array(front, dtype=np.float64).reshape(-1, len(self.names))
        guesses = predict_full(full, candidates)
        guessed = {c.architecture: g for c, g in zip(candidates, guesses, strict=True)}
        least = self.options.min_gain * float(hypervolume(front_nm, self.ref_point))
        least = max(least, _NEGLIGIBLE * float(np.prod(self.ref_point)))  # where nothing counts yet
        queue: list[tuple[float, int, int, Evaluation]] = []
        order = itertools.count()

        def push(candidate: Evaluation, size: int) -> None:
            gain = self._gain(candidate, front_nm, guessed[candidate.architecture])
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

    def _gain(self, candidate: Evaluation, front_nm: FloatArray, guess: Predicted) -> float:
        """Expected hypervolume in the full perplexity's distribution; 0 for what breaks a constraint."""
        ref = self.ref_point.copy()
        for name, bound in self.constraints.items():
            if name == PERPLEXITY:  # the part of the distribution beyond the bound gains nothing
                ref[self._column] = min(ref[self._column], bound)
            elif candidate.value(name) > bound:
                return 0.0
        row = self._row(candidate)
        return expected_improvement(front_nm, ref, row, self._column, guess.mean, guess.std)

    @property
    def _column(self) -> int:
        return self.names.index(PERPLEXITY)

    def _row(self, evaluation: Evaluation) -> FloatArray:
        return np.array([evaluation.value(name) for name in self.names], dtype=np.float64)
