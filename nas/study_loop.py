"""The inside of a study: claim a place, ask, evaluate, tell; any number of processes do so side by side, here and on other machines.

Asking is one at a time among all of them (:mod:`nas.claims`), so that no place is given away twice and every proposal knows those that are
still evaluated; evaluating is not. A trial whose process died is given up by whoever claims next (:mod:`nas.heartbeat`): that frees its
index, and the same proposal is made again. Whoever finds all places taken waits for those that hold them, and takes over what they leave.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nas.claims import ClaimLostError
from nas.heartbeat import OWNER, Heartbeat, Owner, Watch
from nas.objectives import Evaluation
from nas.retold import retold_view
from nas.retried_storage import RetriedStorage
from nas.searchers.given import given_params
from nas.searchers.indexed import give_up
from nas.storage import quiet
from nas.study_fidelity import EVALUATION, Fidelities
from nas.study_plan import StudyPlan
from search_spaces import SearchSpace

if TYPE_CHECKING:
    import optuna

_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 0.02, 1.0


def complete_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The finished trials, in the order they were asked for."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


@dataclass
class _Ledger:
    """Which architectures a study has asked for and what they scored; reads each trial once."""

    space: SearchSpace
    keys: dict[int, str] = field(default_factory=dict)
    told: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def read(self, trials: Iterable[optuna.trial.FrozenTrial]) -> set[str]:
        """Keys of the architectures of trials."""
        return {key for key in map(self.key, trials) if key is not None}

    def remember(self, trials: Iterable[optuna.trial.FrozenTrial]) -> None:
        """The evaluations of trials that ended, in whatever way; of each architecture the first at the highest fidelity."""
        for trial in trials:
            key = self.key(trial)
            if key is not None and EVALUATION in trial.user_attrs:
                found, known = trial.user_attrs[EVALUATION], self.told.get(key)
                if known is None or (found["fidelity"] or 0) > (known["fidelity"] or 0):
                    self.told[key] = found

    def key(self, trial: optuna.trial.FrozenTrial) -> str | None:
        """Of a trial's architecture; None while it is being asked for."""
        if trial.number not in self.keys and len(trial.params) == self.space.dim:
            self.keys[trial.number] = self.space.from_params(trial.params).key
        return self.keys.get(trial.number)


class _Wait:
    """Pauses that grow, while others work."""

    def __init__(self) -> None:
        self._pause_s = _SHORTEST_WAIT_S

    def __call__(self) -> None:
        time.sleep(self._pause_s)
        self._pause_s = min(1.5 * self._pause_s, _LONGEST_WAIT_S)


class Places:
    """The places of a study as one process sees them: what is finished, what runs, what is left.

    Args:
        study: opened.
        plan: of it.
        owner: the process.
    """

    def __init__(self, study: optuna.Study, plan: StudyPlan, owner: Owner) -> None:
        self.study, self.plan, self.owner = study, plan, owner
        self._claim = plan.claim(study, owner)
        self._ledger, self._watch = _Ledger(plan.space), Watch()
        self._slots = plan.slots()
        self.fidelities = Fidelities(plan)
        self._interruptions = 0
        # Trials that ran with the same architecture when ours was asked for.
        self._rivals: set[int] = set()
        study.sampler = plan.make_sampler()
        self._view, self._seen = retold_view(study)  # of the sampler

    def take(self) -> optuna.Trial | None:
        """A trial of our own, asked for; None when the study holds enough finished ones, or every architecture of the space.

        While all places are taken it waits: those that hold them may die.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        wait = _Wait()
        while True:
            trial = None
            try:
                with self._claim:
                    complete, running = self._look()
                    if self._is_full(complete):
                        return None
                    if not self._is_full(complete + running):
                        trial = self._ask(complete, running)
            except (ClaimLostError, UpdateFinishedTrialError):
                # The connection broke, and others had their turn: perhaps they asked for the same.
                if trial is not None:
                    self.give_back(trial)
                continue
            except BaseException:
                if trial is not None:
                    with contextlib.suppress(Exception):
                        self.give_back(trial)
                raise
            if trial is not None:
                return trial
            wait()

    def known(self, key: str) -> Mapping[str, Any] | None:
        """The evaluation of the architecture just taken, if there is one; where another process is at it, that is awaited.

        Of several trials that run with one architecture the first is evaluated.
        """
        wait = _Wait()
        while key not in self._ledger.told and self._rivals:
            wait()
            with contextlib.suppress(ClaimLostError), self._claim:
                _, running = self._look()
                self._rivals &= {t.number for t in running}
        return self._ledger.told.get(key)

    def give_back(self, trial: optuna.Trial) -> None:
        """Free the trial's index: whoever asks next makes the same proposal."""
        give_up(self.study, trial._trial_id)

    def is_ours(self, trial: optuna.Trial) -> bool:
        """Whether nobody has given the trial up meanwhile; a database that crashed forgets trials that had not reached its disk."""
        try:
            return not self.study._storage.get_trial(trial._trial_id).state.is_finished()
        except KeyError:
            return False

    def _look(self) -> tuple[list[optuna.trial.FrozenTrial], list[optuna.trial.FrozenTrial]]:
        """Finished trials and running ones, when those that were abandoned are given up; to be called with the claim."""
        from optuna.trial import TrialState

        storage = self.study._storage
        if isinstance(storage, RetriedStorage):
            if storage.patience.interruptions != self._interruptions:
                self._watch.forget()
            self._interruptions = storage.patience.interruptions
        trials = self.study.get_trials(deepcopy=False)
        running = [t for t in trials if t.state == TrialState.RUNNING]
        left = self._watch.abandoned(running)
        for trial in left:
            give_up(self.study, trial._trial_id)
        abandoned = {t.number for t in left}
        self._ledger.remember(t for t in trials if t.state.is_finished() or t.number in abandoned)
        complete = [t for t in trials if t.state == TrialState.COMPLETE]
        return complete, [t for t in running if t.number not in abandoned]

    def _is_full(self, held: list[optuna.trial.FrozenTrial]) -> bool:
        if len(held) >= self.plan.n_trials:
            return True
        every = self.plan.space.cardinality
        if len(held) < every or len(self._ledger.read(held)) < every:
            return False
        return self.fidelities.is_spent(held)

    def _ask(
        self,
        complete: list[optuna.trial.FrozenTrial],
        running: list[optuna.trial.FrozenTrial],
    ) -> optuna.Trial:
        params = self.fidelities.params(complete, running)
        self._seen.retold = {} if params else self.fidelities.retold(complete)
        with quiet(), given_params(self._view, params):
            trial = self._view.ask(self._slots)
        trial.set_user_attr(OWNER, self.owner.to_json())
        key = self.plan.space.from_params(trial.params).key
        self._rivals = {t.number for t in running if self._ledger.key(t) == key}
        return trial


def work(study: optuna.Study, plan: StudyPlan, owner: Owner) -> Iterator[None]:
    """Ask, evaluate and tell until the study holds enough trials; yields after each of ours.

    Ends early when every architecture of the space has been evaluated. A trial that others gave up meanwhile, because this process
    showed no sign of life, is left to them.
    """
    places = Places(study, plan, owner)
    while (trial := places.take()) is not None:
        try:
            with Heartbeat(study._storage, trial._trial_id, owner):
                architecture = plan.space.from_params(trial.params)
                stored = places.known(architecture.key)
                evaluation = places.fidelities.evaluate(architecture, stored)
            _tell(study, plan, trial, evaluation, places.fidelities.told(evaluation))
        except Exception:
            if places.is_ours(trial):
                _hurry(study)
                with contextlib.suppress(Exception):
                    places.give_back(trial)
                raise
        except BaseException:
            # Ctrl-C: the place is given back, and whoever resumes makes the same proposal.
            _hurry(study)
            with contextlib.suppress(Exception):
                places.give_back(trial)
            raise
        yield


def _tell(
    study: optuna.Study,
    plan: StudyPlan,
    trial: optuna.Trial,
    evaluation: Evaluation,
    told: Mapping[str, float],
) -> None:
    for name in (*plan.names, *plan.constraints):
        evaluation.value(name)  # says what is missing
    values = [float(told[n]) for n in plan.names]
    for name, excess in plan.excess(told).items():
        trial.set_constraint(name, excess)
    trial.set_user_attr(EVALUATION, evaluation.to_json())
    study.tell(trial, values)


def _hurry(study: optuna.Study) -> None:
    """Wait for no server any more: this process ends."""
    storage = study._storage
    if isinstance(storage, RetriedStorage):
        storage.patience.patience_s = 0.0
