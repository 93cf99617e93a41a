"""Which architecture to measure next, and on how many tokens: explore cheaply, then promote what is expected to add hypervolume."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nas.constraints import feasible_mask
from nas.fidelity.calibration import Calibration, telling_parts
from nas.fidelity.improvement import expected_improvement
from nas.fidelity.options import Growing
from nas.fidelity.record import LossRecord, tokens_paid
from nas.objectives import Evaluation, Objective
from nas.pareto import hypervolume
from search_spaces import Architecture

FloatArray = npt.NDArray[np.float64]
PERPLEXITY = "perplexity"
_NEGLIGIBLE = 1e-6  # hypervolume, as a share of all that lies between 0 and the reference point
LOW_FIDELITY = "low fidelity"  # source of a claim that is no measurement on all tokens


class Judge(Protocol):
    """Who measures: perplexity on parts of a held-out text, everything else without any."""

    @property
    def part_tokens(self) -> tuple[int, ...]:
        """Tokens of each part of the text."""

    def measure(
        self, architecture: Architecture, parts: Sequence[int], earlier: Evaluation | None
    ) -> Evaluation:
        """The evaluation on these parts and those of ``earlier``, which are not read again."""


@dataclass(frozen=True)
class Step:
    """What a trial has to do.

    Args:
        architecture: to measure on more parts of the text; None where the sampler has to propose one.
        parts: of the text, ascending.
    """

    architecture: Architecture | None
    parts: tuple[int, ...]


@dataclass(frozen=True)
class GrowingSearch:
    """Decisions of a search whose fidelity grows; each is a pure function of the finished evaluations.

    A trial either proposes: the sampler's architecture is measured at the lowest fidelity, or promotes: an architecture that was
    proposed before goes on to the next. It promotes the one that is expected to add the most hypervolume to the front of full
    evaluations for each token still to be paid,

    - while promotions have cost at most a quarter of the proposals' tokens (the front grows, and the calibration learns where the
      search is), and
    - in all the trials that are left, when there are no more of them than promotions worth making: early promotions are mostly dominated
      by what is proposed later, so the others wait.

    Args:
        judge: measures.
        objectives: perplexity among them; the others cost no tokens.
        ref_point: worst values that still count, by objective.
        constraints: largest allowed values, by objective.
        options: how fidelity grows.

    Raises:
        ValueError: if perplexity is no objective, or a reference value is missing.
    """

    judge: Judge
    objectives: tuple[Objective, ...]
    ref_point: Mapping[str, float]
    constraints: Mapping[str, float]
    options: Growing = field(default_factory=Growing)

    def __post_init__(self) -> None:
        names = [str(o) for o in self.objectives]
        if PERPLEXITY not in names:
            raise ValueError(
                f"expected perplexity among the objectives of a search with growing fidelity, got {names}; no other depends on tokens"
            )
        if missing := [name for name in names if name not in self.ref_point]:
            raise ValueError(
                f"expected a reference value of every objective, got none of {missing}; pass ref_point"
            )

    @property
    def full(self) -> int:
        """Tokens of a full evaluation."""
        return sum(self.judge.part_tokens)

    # --- decisions -----------------------------------------------------------------------------------

    def next_step(
        self, past: Sequence[Evaluation], running: Collection[Architecture], num_left: int
    ) -> Step:
        """What the next trial has to do.

        Args:
            past: finished evaluations, in the order of their trials.
            running: architectures that others measure now: they are not promoted twice.
            num_left: trials that may still be started, this one included; 0 when nothing is left to propose.

        Returns:
            A promotion, or a proposal at the lowest fidelity (the full one at the beginning).
        """
        counts = self.options.parts(len(self.judge.part_tokens))
        if len(past) + len(running) < self.options.num_full:
            return Step(None, tuple(range(counts[-1])))
        best = _highest(past)
        waiting = [e for e in best.values() if e.fidelity != self.full]
        candidates = [e for e in waiting if e.architecture not in running]
        worth = self._worth(best, candidates, num_left) if candidates else []
        if worth:
            read = LossRecord.of(worth[0]).parts
            following = next(count for count in counts if count > len(read))
            parts = self._parts(best.values(), following, read)
            needed = sum(count > len(LossRecord.of(e).parts) for e in worth for count in counts)
            if needed >= num_left or self._may_promote(past, LossRecord.of(worth[0]).lacks(parts)):
                return Step(worth[0].architecture, parts)
        return Step(None, self._parts(best.values(), counts[0]))

    def _parts(
        self, evaluations: Iterable[Evaluation], count: int, begin: Sequence[int] = ()
    ) -> tuple[int, ...]:
        """Parts that tell the full perplexity best by what full evaluations have shown, ``begin`` among them.

        The same for all proposals until more is learned: what parts share is then no difference between two architectures. Reading
        others each time was tried; the errors were less one-sided, but larger between architectures, and the search found less.
        """
        tokens = np.array(self.judge.part_tokens, dtype=np.float64)
        if count == len(tokens):
            return tuple(range(count))
        full = [LossRecord.of(e).nats for e in evaluations if e.fidelity == self.full]
        losses = np.array(full, dtype=np.float64).reshape(-1, len(tokens)) / tokens
        return tuple(sorted(telling_parts(losses, tokens, count, begin)))

    def _may_promote(self, past: Sequence[Evaluation], parts: Sequence[int]) -> bool:
        """Whether promotions, one that reads these parts included, cost no more than their share of the proposals' tokens."""
        explored = promoted = 0
        seen: set[Architecture] = set()
        for number, (evaluation, paid) in enumerate(zip(past, tokens_paid(past), strict=True)):
            if number >= self.options.num_full:
                is_promotion = evaluation.architecture in seen
                explored += 0 if is_promotion else paid
                promoted += paid if is_promotion else 0
            seen.add(evaluation.architecture)
        promoted += sum(self.judge.part_tokens[part] for part in parts)
        return promoted <= self.options.early * explored

    def _worth(
        self, best: Mapping[Architecture, Evaluation], candidates: list[Evaluation], most: int
    ) -> list[Evaluation]:
        """Candidates worth a promotion, the best gain a token first, each given those before it at their predicted values.

        At most ``most`` of them, or one. Gains only shrink as the front grows, so a stale one is an upper bound (lazy greedy,
        Minoux, 1978).
        """
        full = [e for e in best.values() if e.fidelity == self.full]
        allowed = feasible_mask(full, self.constraints)
        front = self._matrix([e for e, keep in zip(full, allowed, strict=True) if keep])
        guessed = self._guesses(best.values(), candidates)
        least = self.options.min_gain * float(hypervolume(front, self._ref))
        least = max(least, _NEGLIGIBLE * float(np.prod(self._ref)))  # also where nothing counts yet
        queue: list[tuple[float, int, int, Evaluation]] = []
        order = itertools.count()

        def push(candidate: Evaluation, size: int) -> None:
            gain = self._gain(candidate, front, *guessed[candidate.architecture])
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
            row[self._column] = math.exp(guessed[candidate.architecture][0])
            front = np.concatenate([front, row[None]])
        return worth

    def _gain(self, candidate: Evaluation, front: FloatArray, mean: float, std: float) -> float:
        """Expected hypervolume in the full perplexity's distribution; 0 for what breaks a constraint."""
        ref = self._ref.copy()
        for name, bound in self.constraints.items():
            if name == PERPLEXITY:  # the part of the distribution beyond the bound gains nothing
                ref[self._column] = min(ref[self._column], bound)
            elif candidate.value(name) > bound:
                return 0.0
        return expected_improvement(front, ref, self._row(candidate), self._column, mean, std)

    # --- measuring -----------------------------------------------------------------------------------

    def evaluate(
        self,
        architecture: Architecture,
        parts: Sequence[int],
        earlier: Evaluation | None,
        past: Sequence[Evaluation],
    ) -> Evaluation:
        """Measure, and say what the full perplexity is predicted to be where not all tokens were read.

        Args:
            architecture: to measure.
            parts: of the text.
            earlier: an evaluation of it, whose tokens are not read again; one on as many tokens or more is returned.
            past: finished evaluations, which calibrate the prediction.
        """
        tokens = sum(self.judge.part_tokens[part] for part in parts)
        if earlier is not None and (earlier.fidelity or 0) >= tokens:
            return earlier
        found = self.judge.measure(architecture, parts, earlier)
        if found.fidelity == self.full:
            return found
        record = LossRecord.of(found)
        calibration = self.calibration(_highest(past).values(), record.parts)
        mean, least, most = calibration.interval(record.mean())
        claim = {"mean": mean, "low": least, "high": most, "source": LOW_FIDELITY}
        claims = dict(found.provenance.get("claims", {})) | {PERPLEXITY: claim}
        return replace(found, provenance=dict(found.provenance) | {"claims": claims})

    def told(self, evaluation: Evaluation) -> dict[str, float]:
        """What a sampler is told: the values, a perplexity of low fidelity by its predicted full value."""
        values = {name: float(value) for name, value in evaluation.values.items()}
        if evaluation.fidelity != self.full:
            values[PERPLEXITY] = float(evaluation.provenance["claims"][PERPLEXITY]["mean"])
        return values

    def calibration(self, evaluations: Iterable[Evaluation], parts: Sequence[int]) -> Calibration:
        """What these parts say about the whole text, from the full evaluations among some."""
        records = [LossRecord.of(e) for e in evaluations if e.fidelity == self.full]
        return Calibration.fit([r.mean(parts) for r in records], [r.mean() for r in records])

    # --- arrays --------------------------------------------------------------------------------------

    @cached_property
    def _column(self) -> int:
        return [str(o) for o in self.objectives].index(PERPLEXITY)

    @cached_property
    def _ref(self) -> FloatArray:
        return np.array([self.ref_point[str(o)] for o in self.objectives], dtype=np.float64)

    def _row(self, evaluation: Evaluation) -> FloatArray:
        return np.array([evaluation.value(o) for o in self.objectives], dtype=np.float64)

    def _matrix(self, evaluations: Sequence[Evaluation]) -> FloatArray:
        rows = [self._row(e) for e in evaluations]
        return np.array(rows, dtype=np.float64).reshape(-1, len(self.objectives))

    def _guesses(
        self, evaluations: Collection[Evaluation], candidates: Sequence[Evaluation]
    ) -> dict[Architecture, tuple[float, float]]:
        """Mean and standard deviation of the candidates' full log perplexities."""
        calibrations: dict[tuple[int, ...], Calibration] = {}
        found = {}
        for candidate in candidates:
            record = LossRecord.of(candidate)
            if record.parts not in calibrations:
                calibrations[record.parts] = self.calibration(evaluations, record.parts)
            mean, std = calibrations[record.parts].predict(np.array([record.mean()]))
            found[candidate.architecture] = float(mean[0]), float(std[0])
        return found


def _highest(past: Sequence[Evaluation]) -> dict[Architecture, Evaluation]:
    """Of each architecture the evaluation at the highest fidelity, in the order in which they were proposed."""
    found: dict[Architecture, Evaluation] = {}
    for evaluation in past:
        known = found.get(evaluation.architecture)
        if known is None or (evaluation.fidelity or 0) > (known.fidelity or 0):
            found[evaluation.architecture] = evaluation
    return found
