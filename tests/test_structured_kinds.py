"""The sampler ``auto`` on every kind of study: batches, small and mixed spaces, depth, odd values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from nas.pareto import hypervolume
from nas.searchers import make_sampler
from nas.searchers.indexed import give_up
from nas.searchers.model_sampler import SpaceExhaustedError
from tests.structured_cases import (
    DEEP,
    EVERY_KIND,
    WIDE,
    Space,
    active_part,
    of_active_layers,
    told,
)
from tests.structured_studies import FUNCTION, REF, auto, best_volume, mean_random, volume


def test_sixteen_running_trials_differ_and_spread() -> None:
    study = told(auto(5, ref_point=REF), WIDE, FUNCTION, 30)
    batch = [study.ask(WIDE) for _ in range(16)]
    points = [tuple(t.params.values()) for t in batch]
    before = {tuple(t.params.values()) for t in study.trials if t.state == TrialState.COMPLETE}
    assert len(set(points)) == 16
    assert not before & set(points)
    apart = [
        sum(a != b for a, b in zip(p, q, strict=True)) for p, q in itertools.combinations(points, 2)
    ]
    assert np.mean(apart) > 5.0  # of 27 choices: not sixteen neighbors of one point
    costs = sorted(FUNCTION(t.params)[1] for t in batch)
    assert costs[-1] - costs[0] > 0.25 * (REF[1] - 0.0)
    for trial in batch:
        study.tell(trial, FUNCTION(trial.params))
    assert volume(study) > 0.85 * best_volume()


def test_asked_before_anything_is_told() -> None:
    study = optuna.create_study(
        directions=["minimize"] * 2, sampler=auto(search_space=WIDE, n_startup=4)
    )
    points = [tuple(study.ask(WIDE).params.values()) for _ in range(9)]
    assert len(set(points)) == 9


def mixed(params: Mapping[str, Any]) -> list[float]:
    """A cost of every kind of parameter, optimal at rate 1e-3, ratio 0.3, even 6, and pattern block."""
    pattern = {"dense": 1.0, "2:4": 0.5, "block": 0.0}[params["pattern"]]
    error = (math.log10(params["rate"]) + 3.0) ** 2 + 4.0 * (params["ratio"] - 0.3) ** 2 + pattern
    error += 0.2 * abs(params["even"] - 6) + 0.1 * math.log2(params["power"])
    error += (params["quarter"] - 0.5) ** 2 + (params["tenth"] - 0.7) ** 2
    return [error + 0.3 * (params["bias"] == "no"), math.log(params["many"]) + params["tenth"]]


def test_mixed_spaces() -> None:
    study = told(auto(6, n_startup=8), EVERY_KIND, mixed, 32)
    for trial in study.trials:
        for name, dist in EVERY_KIND.items():
            assert dist._contains(dist.to_internal_repr(trial.params[name]))
    random = [told(make_sampler("random", seed=s), EVERY_KIND, mixed, 32) for s in range(3)]

    def at(study: optuna.Study) -> float:
        return float(hypervolume([t.values for t in study.trials], [8.0, 6.0]))

    assert at(study) > max(map(at, random))
    assert min(t.values[0] for t in study.trials) < 0.8


SMALL: Space = {"a": CategoricalDistribution((1, 2, 3, 4)), "b": IntDistribution(0, 5)}


def small(params: Mapping[str, Any]) -> list[float]:
    return [float(params["a"]), 10.0 - params["b"]]


def test_every_point_once_then_exhausted() -> None:
    study = told(auto(search_space=SMALL, n_startup=6), SMALL, small, 24)
    points = {(t.params["a"], t.params["b"]) for t in study.trials}
    assert points == set(itertools.product((1, 2, 3, 4), range(6)))
    with pytest.raises(SpaceExhaustedError, match=r"^space exhausted: .* 24 points"):
        study.ask(SMALL)


def test_running_points_are_not_proposed() -> None:
    study = told(auto(search_space=SMALL, n_startup=4), SMALL, small, 6)
    asked = {tuple(study.ask(SMALL).params.values()) for _ in range(18)}
    assert len(asked | {tuple(t.params.values()) for t in study.trials[:6]}) == 24
    with pytest.raises(SpaceExhaustedError):
        study.ask(SMALL)


def test_a_space_of_one_point() -> None:
    """Optuna fills in parameters without a choice itself and never asks a sampler for them."""
    one: Space = {"a": CategoricalDistribution((3,)), "b": IntDistribution(2, 2)}
    for options in ({"search_space": one}, {}):
        study = told(auto(n_startup=2, **options), one, lambda p: [1.0, 2.0], 1)
        with pytest.raises(SpaceExhaustedError, match="1 trials of the only point"):
            study.ask(one)
        assert [t.state for t in study.trials] == [TrialState.COMPLETE, TrialState.FAIL]


def test_one_choice_beside_parameters_without_any() -> None:
    space: Space = {"a": CategoricalDistribution((3,)), "b": IntDistribution(2, 3)}
    study = told(auto(search_space=space, n_startup=2), space, lambda p: [float(p["b"]), 1.0], 2)
    assert {t.params["b"] for t in study.trials} == {2, 3}
    with pytest.raises(SpaceExhaustedError, match="space exhausted"):
        study.ask(space)


def test_an_empty_space_is_nothing_to_propose() -> None:
    study = optuna.create_study(sampler=auto())
    study.tell(study.ask({}), 1.0)
    with pytest.raises(SpaceExhaustedError, match="got none at all"):
        study.ask({})


def test_points_that_mean_the_same_are_proposed_once() -> None:
    space: Space = {
        "depth": CategoricalDistribution((1, 2)),
        "first": CategoricalDistribution((0, 1, 2)),
        "second": CategoricalDistribution((0, 1, 2)),
    }

    def canonical(params: dict[str, Any]) -> dict[str, Any]:
        return params if params["depth"] == 2 else params | {"second": 0}

    sampler = auto(1, search_space=space, canonical=canonical, n_startup=4)
    study = told(sampler, space, lambda p: [p["first"] + p["depth"], -p["second"] + 0.0], 12)
    assert (
        len({tuple(canonical(t.params).values()) for t in study.trials}) == 12
    )  # 3 of depth 1, 9 of 2
    with pytest.raises(SpaceExhaustedError):
        study.ask(space)


# --- depth ------------------------------------------------------------------------------------------------


def test_inactive_layers_are_not_tried_in_vain() -> None:
    """Without being told what the depth means, the sampler learns not to repeat an architecture in another spelling."""

    def deep(params: Mapping[str, Any]) -> list[float]:
        cost = of_active_layers(params)
        layers = range(params["depth"])
        error = sum(3.0 / params[f"layer{i}.heads"] for i in layers) + 4.0 * (4 - params["depth"])
        return [error + 2.0 / params["width"], cost]

    study = told(auto(0, n_startup=8), DEEP, deep, 44)
    parts = [active_part(t.params) for t in study.trials]
    shallow = [i for i, t in enumerate(study.trials) if i >= 16 and t.params["depth"] < 4]
    assert len(shallow) > 8
    assert sum(parts[i] in parts[:i] for i in shallow) <= 1


# --- odd values ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error:.*:RuntimeWarning")
@pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
def test_a_constant_objective_leaves_the_other_to_be_searched(value: float) -> None:
    study = told(auto(7), WIDE, lambda p: [FUNCTION(p)[1], value], 24)
    random = told(make_sampler("random", seed=7), WIDE, lambda p: [FUNCTION(p)[1], value], 72)
    assert min(t.values[0] for t in study.trials) < min(t.values[0] for t in random.trials)
    assert len({tuple(t.params.values()) for t in study.trials}) == 24


@pytest.mark.filterwarnings("error:.*:RuntimeWarning")
def test_all_objectives_constant() -> None:
    study = told(auto(8), WIDE, lambda p: [1.0, 2.0], 16)
    assert len({tuple(t.params.values()) for t in study.trials}) == 16


def test_while_no_trial_is_feasible_the_least_violation_is_sought() -> None:
    def violation(params: Mapping[str, Any]) -> float:
        return 1.0 + sum(params[f"layer{i}.ratio"] for i in range(13)) / 13.0

    study = optuna.create_study(directions=["minimize"] * 2, sampler=auto(9))
    for _ in range(24):
        trial = study.ask(WIDE)
        trial.set_constraint("never", violation(trial.params))
        study.tell(trial, FUNCTION(trial.params))
    assert study.best_trials == []
    found = [t.constraints["never"] for t in study.trials]
    assert np.mean(found[14:]) < np.mean(found[:10]) - 0.3


def test_a_constraint_told_of_some_trials_only() -> None:
    study = optuna.create_study(directions=["minimize"] * 2, sampler=auto(10, n_startup=4))
    for number in range(12):
        trial = study.ask(WIDE)
        if number in (2, 7):
            trial.set_constraint("rare", 1.0)
        study.tell(trial, FUNCTION(trial.params))
    assert len({tuple(t.params.values()) for t in study.trials}) == 12


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
def test_values_that_are_no_measurements(bad: float) -> None:
    """Optuna marks a trial that was told NaN as failed."""
    study = optuna.create_study(directions=["minimize"] * 2, sampler=auto(11, n_startup=5))
    for number in range(18):
        trial = study.ask(WIDE)
        error, cost = FUNCTION(trial.params)
        value = bad if number % 4 == 3 else error
        study.tell(trial, [value, cost], skip_if_finished=False)
    failed = [t for t in study.trials if t.state == TrialState.FAIL]
    assert len(failed) == (4 if math.isnan(bad) else 0)
    complete = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert len({tuple(t.params.values()) for t in complete}) == len(complete) == 18 - len(failed)


def test_one_impossible_value_does_not_blind_the_search() -> None:
    def broken_once(params: Mapping[str, Any]) -> list[float]:
        error, cost = FUNCTION(params)
        return [1e9 if params["width"] == 256 and params["layer0.heads"] == 4 else error, cost]

    ours = volume(told(auto(0, ref_point=REF), WIDE, broken_once, 30), broken_once)
    assert ours > mean_random(60, 3)


def test_failed_and_pruned_trials_are_no_data() -> None:
    study = told(auto(12, n_startup=4), WIDE, FUNCTION, 8)
    twin = told(auto(12, n_startup=4), WIDE, FUNCTION, 8)
    give_up(study, study.ask(WIDE)._trial_id)
    assert study.ask(WIDE).params == twin.ask(WIDE).params
