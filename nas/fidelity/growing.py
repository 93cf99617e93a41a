"""Which architecture to measure next, and on how many tokens: explore cheaply, then promote what is expected to add hypervolume."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from nas.fidelity.options import Growing
from nas.fidelity.predictions import Predictions
from nas.fidelity.promotions import PERPLEXITY, Promotions
from nas.fidelity.record import LossRecord, tokens_paid
from nas.fidelity.telling_parts import telling_parts
from nas.objectives import Evaluation, Objective
from search_spaces import Architecture

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

    - while promotions have cost at most a share, ``options.early``, of the proposals' tokens (the front grows, and the calibration
      learns where the search is), and
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
    predict: Predictions = field(default_factory=Predictions, init=False, repr=False, compare=False)

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
        worth = self._promotions.worth(self._all_tokens(best.values()), candidates, num_left)
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
        full = [LossRecord.of(e).nats for e in self._all_tokens(evaluations)]
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

    @cached_property
    def _promotions(self) -> Promotions:
        names = tuple(str(o) for o in self.objectives)
        ref = np.array([self.ref_point[name] for name in names], dtype=np.float64)
        return Promotions(names, ref, self.constraints, self.options, self.full, self.predict)

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
        guess = self.predict(self._all_tokens(_highest(past).values()), [found])[0]
        least, most = guess.interval
        claim = {"mean": guess.perplexity, "low": least, "high": most, "source": LOW_FIDELITY}
        claims = dict(found.provenance.get("claims", {})) | {PERPLEXITY: claim}
        return replace(found, provenance=dict(found.provenance) | {"claims": claims})

    def told(self, past: Sequence[Evaluation]) -> list[dict[str, float]]:
        """What a sampler is told of each: its values, and as perplexity the best that is known of the full one by now.

        That is the full perplexity where some evaluation of the architecture has it, and otherwise what those that have it predict:
        what was predicted when few had it would mislead for the rest of the search.
        """
        best = _highest(past)
        full = {e.architecture: e for e in self._all_tokens(best.values())}
        partial = {a: e for a, e in best.items() if a not in full}
        guesses = self.predict(list(full.values()), list(partial.values()))
        known = {a: float(e.value(PERPLEXITY)) for a, e in full.items()}
        known |= {a: guess.perplexity for a, guess in zip(partial, guesses, strict=True)}
        return [dict(e.values) | {PERPLEXITY: known[e.architecture]} for e in past]

    def _all_tokens(self, evaluations: Iterable[Evaluation]) -> list[Evaluation]:
        return [e for e in evaluations if e.fidelity == self.full]


def _highest(past: Sequence[Evaluation]) -> dict[Architecture, Evaluation]:
    """Of each architecture the evaluation at the highest fidelity, in the order in which they were proposed."""
    found: dict[Architecture, Evaluation] = {}
    for evaluation in past:
        known = found.get(evaluation.architecture)
        if known is None or (evaluation.fidelity or 0) > (known.fidelity or 0):
            found[evaluation.architecture] = evaluation
    return found
