"""What every searcher promises, whoever wrote it. A subclass says which sampler, and inherits the laws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from nas.searchers import make_sampler
from nas.searchers.indexed import give_up

Space = dict[str, BaseDistribution]
DISCRETE: Space = {
    "width": CategoricalDistribution((64, 128, 256)),
    "pattern": CategoricalDistribution(("dense", "2:4", "block")),
    "bias": CategoricalDistribution((False, True)),
    "depth": IntDistribution(1, 4),
    "fixed": CategoricalDistribution((7,)),
}
MIXED: Space = {
    "pattern": CategoricalDistribution(("dense", "2:4", "block")),
    "depth": IntDistribution(1, 200, log=True),
    "even": IntDistribution(2, 11, step=2),
    "rate": FloatDistribution(1e-5, 1e-1, log=True),
    "ratio": FloatDistribution(-1.0, 1.0),
    "quarter": FloatDistribution(0.0, 1.0, step=0.25),
}
_COST = {"dense": 1.0, "2:4": 0.6, "block": 0.4}


def score(params: Mapping[str, Any], num_objectives: int) -> list[float]:
    """Conflicting objectives of a point of either space."""
    size = _COST[params["pattern"]] * math.log2(params.get("width", 128)) + params["depth"] ** 0.5
    size += 3.0 * params.get("quarter", 0.0) + params.get("bias", 0)
    error = 5.0 / (1.0 + size) + (math.log10(params.get("rate", 1e-3)) + 3.0) ** 2
    error += (params.get("ratio", 0.3) - 0.3) ** 2
    return [error, size, error * size, error + (size - 4.0) ** 2][:num_objectives]


def run(
    sampler: optuna.samplers.BaseSampler,
    space: Space,
    n_trials: int,
    num_objectives: int = 2,
    study: optuna.Study | None = None,
) -> optuna.Study:
    """Ask and tell until a study holds ``n_trials`` finished trials."""
    study = study or optuna.create_study(directions=["minimize"] * num_objectives)
    study.sampler = sampler
    while len(proposals(study)) < n_trials:
        trial = study.ask(space)
        study.tell(trial, score(trial.params, num_objectives))
    return study


def proposals(study: optuna.Study) -> list[dict[str, Any]]:
    """Parameters of the finished trials in order."""
    return [t.params for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]


class SamplerContract:
    """Laws of a searcher; ``name`` and ``options`` of :func:`nas.searchers.make_sampler`, and its trials for a law."""

    name: str
    options: Mapping[str, Any] = {}
    n_trials = 14
    n_running = 4
    no_repeats = False  # whether no point is proposed twice while there are others

    def make(self, seed: int = 0, **options: Any) -> optuna.samplers.BaseSampler:
        """A new sampler."""
        return make_sampler(self.name, seed=seed, **{**self.options, **options})

    @pytest.mark.parametrize("space", [DISCRETE, MIXED], ids=["discrete", "mixed"])
    def test_proposals_lie_in_the_space(self, space: Space) -> None:
        found = proposals(run(self.make(), space, self.n_trials))
        for params in found:
            assert params.keys() == space.keys()
            for name, value in params.items():
                distribution = space[name]
                assert distribution._contains(distribution.to_internal_repr(value))
                if name == "even":
                    assert value in (2, 4, 6, 8, 10)
                if name == "quarter":
                    assert value in (0.0, 0.25, 0.5, 0.75, 1.0)

        if space is DISCRETE and self.no_repeats:
            assert len({str(params) for params in found}) == self.n_trials

    def test_the_seed_decides(self) -> None:
        first, again, other = (
            proposals(run(self.make(seed), DISCRETE, self.n_trials)) for seed in (3, 3, 4)
        )
        assert first == again
        assert first != other

    def test_pieces_and_lost_trials_change_nothing(self) -> None:
        whole = proposals(run(self.make(5), MIXED, self.n_trials))
        study = optuna.create_study(directions=["minimize"] * 2)
        for count in range(1, self.n_trials + 1):
            if count % 3 == 0:  # a process dies between ask and tell
                study.sampler = self.make(5)
                give_up(study, study.ask(MIXED)._trial_id)
            run(self.make(5), MIXED, count, study=study)
        assert proposals(study) == whole
        assert len(study.trials) > self.n_trials

    def test_running_trials_are_not_proposed_the_same_way(self) -> None:
        study = run(self.make(), MIXED, self.n_trials)
        asked = [study.ask(MIXED).params for _ in range(self.n_running)]
        assert len({str(params) for params in asked}) == self.n_running

    def test_batches(self) -> None:
        """q trials are asked before the first is told, and told in another order."""
        study = optuna.create_study(directions=["minimize"] * 2, sampler=self.make(2))
        while len(proposals(study)) < self.n_trials:
            batch = [study.ask(DISCRETE) for _ in range(self.n_running)]
            for trial in reversed(batch):
                study.tell(trial, score(trial.params, 2))
        found = [str(params) for params in proposals(study)]
        if self.no_repeats:
            assert len({*found}) == len(found)

    def test_conditional_depth(self) -> None:
        """A parameter that a trial does not have is no concern of its sampler, and one that it has lies in its range."""

        def objective(trial: optuna.Trial) -> tuple[float, float]:
            depth = trial.suggest_int("depth", 1, 3)
            widths = [trial.suggest_categorical(f"width{i}", (1, 2, 4)) for i in range(depth)]
            return 10.0 / sum(widths), float(sum(widths) + depth)

        study = optuna.create_study(directions=["minimize"] * 2, sampler=self.make(6))
        study.optimize(objective, n_trials=self.n_trials)
        for params in proposals(study):
            names = {"depth", *(f"width{i}" for i in range(params["depth"]))}
            assert params.keys() == names
        assert len({params["depth"] for params in proposals(study)}) > 1

    def test_nan_fails_a_trial_and_no_more(self) -> None:
        """Optuna marks the trial as failed; its proposal, which would fail again, is not made again."""
        study = optuna.create_study(directions=["minimize"] * 2, sampler=self.make(7))
        while len(proposals(study)) < self.n_trials:
            trial = study.ask(DISCRETE)
            values = score(trial.params, 2)
            study.tell(trial, [math.nan, values[1]] if trial.number % 5 == 2 else values)
        failed = [t for t in study.trials if t.state == TrialState.FAIL]
        assert len(failed) == len(study.trials) - self.n_trials > 0
        if self.no_repeats:
            assert not {str(t.params) for t in failed} & {str(p) for p in proposals(study)}

    @pytest.mark.parametrize("num_objectives", [1, 3, 4])
    def test_any_number_of_objectives(self, num_objectives: int) -> None:
        study = run(self.make(), DISCRETE, self.n_trials, num_objectives)
        assert len(study.best_trials) >= 1
        assert len(study.best_trials[0].values) == num_objectives

    def test_optimize_and_maximize(self) -> None:
        def objective(trial: optuna.Trial) -> tuple[float, float]:
            params = {
                name: (
                    trial.suggest_categorical(name, d.choices)
                    if isinstance(d, CategoricalDistribution)
                    else trial.suggest_int(name, 1, 4)
                )
                for name, d in DISCRETE.items()
            }
            error, size = score(params, 2)
            return error, -size

        study = optuna.create_study(directions=["minimize", "maximize"], sampler=self.make())
        study.optimize(objective, n_trials=self.n_trials)
        assert len(proposals(study)) == self.n_trials

    def test_constraints(self) -> None:
        study = optuna.create_study(directions=["minimize"] * 2, sampler=self.make(1))
        for _ in range(self.n_trials):
            trial = study.ask(DISCRETE)
            error, size = score(trial.params, 2)
            trial.set_constraint("size", size - 6.0)
            trial.set_constraint("error", error - 1.5)
            study.tell(trial, [error, size])
        violated = [max(t.constraints.values()) > 0.0 for t in study.trials]
        assert any(violated)
        assert all(max(t.constraints.values()) <= 0.0 for t in study.best_trials)

    def test_given_first_proposals(self) -> None:
        given: Sequence[dict[str, Any]] = [
            {"width": 256, "pattern": "dense", "bias": True, "depth": 4, "fixed": 7},
            {"width": 64, "pattern": "block", "bias": False, "depth": 1, "fixed": 7},
        ]
        found = proposals(run(self.make(warm_start=given), DISCRETE, 4))
        assert found[:2] == list(given)

    def test_infinite_values_do_no_harm(self) -> None:
        study = optuna.create_study(directions=["minimize"] * 2, sampler=self.make())
        for number in range(self.n_trials):
            trial = study.ask(DISCRETE)
            values = score(trial.params, 2)
            study.tell(trial, [math.inf, values[1]] if number % 5 == 2 else values)
        assert len(proposals(study)) == self.n_trials

    def test_global_random_state_is_left_alone(self) -> None:
        import torch

        def state() -> tuple[Any, ...]:
            numpy_state = np.random.get_state()  # noqa: NPY002  # the global state is what is tested
            return (
                torch.get_rng_state().tolist(),
                [np.asarray(part).tolist() for part in numpy_state],
                torch.get_num_threads(),
                torch.get_default_dtype(),
            )

        before = state()
        run(self.make(), DISCRETE, self.n_trials)
        assert state() == before
