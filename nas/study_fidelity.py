"""How a study's trials get their fidelity: what each has to measure, and what the sampler is told of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nas.fidelity import GrowingSearch, Step
from nas.objectives import Evaluation
from nas.retold import Retold
from nas.searchers.indexed import index_of
from nas.study_plan import StudyPlan
from search_spaces import Architecture

if TYPE_CHECKING:
    import optuna

EVALUATION = "evaluation"


def in_order(trials: Sequence[optuna.trial.FrozenTrial]) -> list[optuna.trial.FrozenTrial]:
    """By index: a proposal that a killed process lost and another made again stands where it was."""

    def order(trial: optuna.trial.FrozenTrial) -> tuple[int, int]:
        index = index_of(trial)
        return (trial.number if index is None else index, trial.number)

    return sorted(trials, key=order)


class Fidelities:
    """Fidelity of the trials of one process; in a study of one fidelity every trial is an ordinary one.

    What a trial has to do depends on the finished trials and on those that run, as a proposal does: resumed equals uninterrupted.

    Args:
        plan: of the study.
    """

    def __init__(self, plan: StudyPlan) -> None:
        self._plan = plan
        self._growing = plan.evaluate if isinstance(plan.evaluate, GrowingSearch) else None
        self._read: dict[int, Evaluation] = {}  # by trial number
        self._past: list[Evaluation] = []  # when the trial at hand was asked for
        self._step = Step(None, ())

    def is_spent(self, held: Sequence[optuna.trial.FrozenTrial]) -> bool:
        """Whether nothing is left to do where every architecture was proposed.

        Args:
            held: finished trials, and those of the running ones that count.
        """
        if self._growing is None:
            return True
        past = self._evaluations([t for t in held if t.state.is_finished()])
        busy = self._architectures([t for t in held if not t.state.is_finished()])
        return self._growing.next_step(past, busy, 0).architecture is None

    def params(
        self,
        complete: Sequence[optuna.trial.FrozenTrial],
        running: Sequence[optuna.trial.FrozenTrial],
    ) -> Mapping[str, Any] | None:
        """Decide what the next trial has to do; its parameters where the sampler is not asked."""
        if self._growing is None:
            return None
        space = self._plan.space
        self._past, busy = self._evaluations(complete), self._architectures(running)
        num_left = self._plan.n_trials - len(complete) - len(running)
        if len({e.architecture for e in self._past} | {*busy}) >= space.cardinality:
            num_left = 0
        self._step = self._growing.next_step(self._past, busy, num_left)
        architecture = self._step.architecture
        return None if architecture is None else dict(space.to_params(architecture))

    def evaluate(self, architecture: Architecture, stored: Mapping[str, Any] | None) -> Evaluation:
        """Measure the trial's architecture, or answer from what the study has of it.

        Args:
            architecture: of the trial that was asked for last.
            stored: its evaluation at the highest fidelity so far, as JSON.
        """
        known = None if stored is None else Evaluation.from_json(stored)
        if self._growing is not None:
            return self._growing.evaluate(architecture, self._step.parts, known, self._past)
        assert not isinstance(self._plan.evaluate, GrowingSearch)
        return known or self._plan.evaluate(architecture)

    def told(self, evaluation: Evaluation) -> Mapping[str, float]:
        """Values by objective for the sampler and the constraints."""
        if self._growing is None:
            return dict(evaluation.values)
        return self._growing.told([*self._past, evaluation])[-1]

    def retold(self, complete: Sequence[optuna.trial.FrozenTrial]) -> dict[int, Retold]:
        """What the sampler should see of finished trials instead of what it was told; by trial number."""
        if self._growing is None:
            return {}
        rows = self._growing.told(self._evaluations(complete))
        plan = self._plan
        return {
            trial.number: Retold(tuple(float(row[name]) for name in plan.names), plan.excess(row))
            for trial, row in zip(in_order(complete), rows, strict=True)
        }

    def _architectures(self, trials: Sequence[optuna.trial.FrozenTrial]) -> list[Architecture]:
        """Of trials; of those that are being asked for, none."""
        space = self._plan.space
        return [space.from_params(t.params) for t in trials if len(t.params) == space.dim]

    def _evaluations(self, complete: Sequence[optuna.trial.FrozenTrial]) -> list[Evaluation]:
        for trial in complete:
            if trial.number not in self._read:
                self._read[trial.number] = Evaluation.from_json(trial.user_attrs[EVALUATION])
        return [self._read[trial.number] for trial in in_order(complete)]
