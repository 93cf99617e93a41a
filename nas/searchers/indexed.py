"""Samplers whose every proposal is a pure function of the seed, the trial's index and the finished trials.

A trial's *index* is the smallest one that no other trial of the study holds. A trial that a killed process left running frees its
index when its storage or the study loop gives it up, and whoever takes it over makes the same proposal again: a study run in pieces
ends with the same trials as one run at a stretch. A trial that was told as failed (an exception, NaN) keeps its index: the same
proposal would fail again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas.searchers import options

INDEX_KEY, FAILED_KEY = "nas:index", "nas:failed"  # system attributes of a trial


def holds_index(trial: FrozenTrial) -> bool:
    """Whether a trial keeps its index: every one but those that were given up, and those that only wait in a queue."""
    if trial.state == TrialState.FAIL:
        return bool(trial.system_attrs.get(FAILED_KEY))
    return trial.state != TrialState.WAITING


def give_up(study: Study, trial_id: int) -> None:
    """Mark a running trial as failed without telling its sampler, so that its index is free and its proposal is made again."""
    with contextlib.suppress(
        UpdateFinishedTrialError, KeyError
    ):  # it ended just now, or a crashed database forgot it
        study._storage.set_trial_state_values(trial_id, TrialState.FAIL)


def index_of(trial: FrozenTrial) -> int | None:
    """Index of a trial that one of this project's samplers proposed; None for any other."""
    index = trial.system_attrs.get(INDEX_KEY)
    return None if index is None else int(index)


def seed_of(seed: int, index: int) -> int:
    """A 32-bit seed for one trial of a study."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


class IndexedSampler(BaseSampler):
    """What the samplers of this project share: an index for each trial, and the proposals to begin with.

    Args:
        seed: of the whole study, 0 or more.
        warm_start: parameters of the first proposals, in order; a trial that was enqueued takes the place of one.

    Raises:
        ValueError: if the seed is negative or no integer, or the warm start no list of params.
    """

    def __init__(self, *, seed: int, warm_start: Sequence[Mapping[str, Any]] = ()) -> None:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"expected a seed that is an integer of 0 or more, got {seed!r}")
        self.seed = int(seed)
        self.warm_start = options.warm_starts(warm_start)
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def reseed_rng(self) -> None:
        """Do nothing: every trial is seeded by its index, so parallel trials differ without it."""

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Give the trial its index."""
        with self._lock:
            held = set()
            holding = filter(holds_index, study.get_trials(deepcopy=False))
            for position, other in enumerate(holding):
                if other.number != trial.number:
                    index = index_of(other)
                    held.add(position if index is None else index)
            index = next(i for i in range(len(held) + 1) if i not in held)
            study._storage.set_trial_system_attr(trial._trial_id, INDEX_KEY, index)
            trial.system_attrs[INDEX_KEY] = index

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Remember that a trial was told as failed."""
        if state == TrialState.FAIL:
            study._storage.set_trial_system_attr(trial._trial_id, FAILED_KEY, True)

    def warm_params(self, trial: FrozenTrial) -> dict[str, Any] | None:
        """Parameters this trial has to begin with; None when it is free."""
        index = self.index(trial)
        return self.warm_start[index] if index < len(self.warm_start) else None

    def index(self, trial: FrozenTrial) -> int:
        """Index that :meth:`before_trial` gave the trial."""
        index = index_of(trial)
        return trial.number if index is None else index


class ReseededSampler(IndexedSampler):
    """An Optuna sampler, made anew for every trial with a seed of that trial's own.

    What such a sampler must remember between trials (the generations of NSGA-II and III) it keeps in the storage; what it keeps in
    memory only (random state, warm starts of a fit) would differ after a restart, and is dropped here on purpose.

    Args:
        make: seed to sampler.
        seed: of the whole study.
        warm_start: parameters of the first proposals, in order.
    """

    def __init__(
        self,
        make: Callable[[int], BaseSampler],
        *,
        seed: int,
        warm_start: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(seed=seed, warm_start=warm_start)
        self._make = make
        self._samplers: dict[int, BaseSampler] = {}  # by trial number, while the trial runs

    def __str__(self) -> str:
        return f"Reseeded{self._make(0)}"

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Give the trial its index and a fresh sampler."""
        super().before_trial(study, trial)
        sampler = self._make(seed_of(self.seed, self.index(trial)))
        self._samplers[trial.number] = sampler
        sampler.before_trial(study, trial)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Pass on, and forget the trial's sampler."""
        super().after_trial(study, trial, state, values)
        sampler = self._samplers.pop(trial.number, None)
        if sampler is not None:
            sampler.after_trial(study, trial, state, values)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As the Optuna sampler does; nothing for a trial with given parameters."""
        if self.warm_params(trial) is not None:
            return {}
        return self._sampler(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the Optuna sampler does."""
        if self.warm_params(trial) is not None:
            return {}
        return self._sampler(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The given value for a trial with given parameters, otherwise as the Optuna sampler does."""
        given = self.warm_params(trial)
        if given is not None and param_name in given:
            return options.given(param_name, given[param_name], param_distribution)
        return self._sampler(trial).sample_independent(study, trial, param_name, param_distribution)

    def _sampler(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number not in self._samplers:  # a trial that another sampler object began
            self._samplers[trial.number] = self._make(seed_of(self.seed, self.index(trial)))
        return self._samplers[trial.number]
