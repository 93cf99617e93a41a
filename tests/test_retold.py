"""A study seen with other values than it was told: by a sampler, while the storage keeps its own."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import optuna
import pytest
from growing_cases import FormulaJudge, growing_search, growing_study
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from nas.objectives import Evaluation
from nas.retold import Retold, retold_view
from nas.study_fidelity import EVALUATION, in_order
from nas.study_plan import StudyPlan


class Reads(optuna.samplers.RandomSampler):
    """A random sampler that keeps what it saw of the study at every proposal."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.seen: list[list[optuna.trial.FrozenTrial]] = []

    def sample_relative(self, study: optuna.Study, trial: Any, search_space: Any) -> dict[str, Any]:
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        assert [t.values for t in complete] == [
            t.values for t in study._get_trials(deepcopy=False, states=(TrialState.COMPLETE,), use_cache=True)
        ]  # fmt: skip
        self.seen.append(complete)
        return super().sample_relative(study, trial, search_space)


def told_study(sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    for value in (1.0, 2.0, 3.0):
        trial = study.ask({"x": FloatDistribution(0.0, 1.0)})
        trial.set_constraint("size", value - 2.0)
        trial.set_user_attr("kept", value)
        study.tell(trial, [value, -value])
    return study


def test_a_sampler_sees_the_new_values_and_the_storage_keeps_the_old() -> None:
    sampler = Reads()
    study = told_study(sampler)
    before = [(t.values, t.constraints, t.system_attrs) for t in study.trials]
    view, storage = retold_view(study)
    storage.retold = {1: Retold((20.0, -1.0), {"size": 4.0, "time": -1.0}), 2: Retold((0.5, 0.0))}
    asked = view.ask({"x": FloatDistribution(0.0, 1.0)})
    first, second, third = sampler.seen[-1]
    assert (first.values, first.constraints) == ([1.0, -1.0], {"size": -1.0})
    assert (second.values, second.constraints) == ([20.0, -1.0], {"size": 4.0, "time": -1.0})
    assert (third.values, third.constraints) == ([0.5, 0.0], {})
    assert (second.number, second.params) == (1, study.trials[1].params)
    assert second.user_attrs == {"kept": 2.0}
    assert [(t.values, t.constraints, t.system_attrs) for t in study.trials[:3]] == before
    # what is asked of the view is asked of the study
    assert [t.number for t in study.trials] == [0, 1, 2, asked.number]
    study.tell(asked, [7.0, 7.0])
    assert view.trials[3].values == [7.0, 7.0]


def test_the_best_trials_of_the_view_are_by_the_new_values() -> None:
    study = told_study(Reads())
    view, storage = retold_view(study)
    storage.retold = {i: Retold((0.0, 0.0) if i == 2 else (1.0, 1.0)) for i in range(3)}
    assert [t.number for t in view.best_trials] == [2]
    assert [t.number for t in study.best_trials] == [0, 1]  # the third breaks its constraint


def test_a_growing_study_retells_what_was_told_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """At each proposal the sampler sees, of every trial, what the full evaluations so far tell; constraints on it as well."""
    sampler = Reads()
    monkeypatch.setattr(StudyPlan, "make_sampler", lambda plan: sampler)
    growing_study(n_trials=40, constraints={"perplexity": 12.0})
    search = growing_search(FormulaJudge(), constraints={"perplexity": 12.0})
    changed = 0
    for complete in sampler.seen:
        ordered = in_order(complete)
        past = [Evaluation.from_json(t.user_attrs[EVALUATION]) for t in ordered]
        for trial, evaluation, now in zip(ordered, past, search.told(past), strict=True):
            assert trial.values == [now["perplexity"], now["weight_bytes"]]
            excess = now["perplexity"] / 12.0 - 1.0
            assert trial.constraints == {"perplexity": pytest.approx(excess)}
            claim = evaluation.provenance["claims"]["perplexity"]["mean"]
            changed += abs(now["perplexity"] / claim - 1.0) > 1e-3
    assert changed > 50


def test_a_view_can_be_copied() -> None:
    view, storage = retold_view(told_study(Reads()))
    storage.retold = {0: Retold((5.0, 5.0))}
    for twin in (copy.copy(storage), copy.deepcopy(storage), pickle.loads(pickle.dumps(storage))):
        assert twin.get_all_trials(view._study_id)[0].values == [5.0, 5.0]
