"""The sampler ``auto`` on whole studies: how far it gets, and what it makes of every kind of study."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution

from nas.pareto import hypervolume
from nas.searchers import make_sampler
from nas.searchers.parameters import ParameterSpace
from nas.searchers.structured.sampler import StructuredSampler
from tests.structured_cases import (
    WIDE,
    Space,
    additive,
    draws,
    told,
)
from tests.structured_studies import FUNCTION, REF, auto, best_volume, mean_random, volume

# --- how far it gets -----------------------------------------------------------------------------------


def test_an_additive_function_of_27_choices_is_learned_in_40_trials() -> None:
    best, random = best_volume(), mean_random(40)
    ours = volume(told(auto(0, ref_point=REF), WIDE, FUNCTION, 40))
    assert random < 0.6 * best  # which 120 random trials do not reach
    assert ours > 0.85 * best


def test_noise_costs_little() -> None:
    """Values are told with noise of a fifth of their deviation over the space; what was found is judged without."""
    sizes = np.std(
        [FUNCTION(ParameterSpace(WIDE).params(x)) for x in draws(ParameterSpace(WIDE), 1, 300)],
        axis=0,
    )

    rng = np.random.default_rng(0)

    def noisy(params: Mapping[str, Any]) -> list[float]:
        return (np.array(FUNCTION(params)) + 0.2 * sizes * rng.normal(size=2)).tolist()

    assert volume(told(auto(0, ref_point=REF), WIDE, noisy, 40)) > 0.75 * best_volume()


def test_constraints_steer_the_proposals() -> None:
    def wide_and_heavy(params: Mapping[str, Any]) -> float:
        """Satisfied by about one random point in five."""
        heads = sum(params[f"layer{i}.heads"] for i in range(13))
        return float(heads - 96) / 8.0

    def feasible(sampler: optuna.samplers.BaseSampler) -> tuple[float, float]:
        study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
        for _ in range(32):
            trial = study.ask(WIDE)
            trial.set_constraint("heads", wide_and_heavy(trial.params))
            study.tell(trial, FUNCTION(trial.params))
        kept = [t for t in study.trials if t.constraints["heads"] <= 0.0]
        late = [t.number for t in kept if t.number >= 16]
        return float(hypervolume([t.values for t in kept], REF)), len(late) / 16.0

    ours = [feasible(auto(0, ref_point=REF))]
    random = [feasible(make_sampler("random", seed=seed)) for seed in range(4)]
    assert min(v for v, _ in ours) > 1.3 * max(v for v, _ in random)
    assert min(share for _, share in ours) > 0.6


@pytest.mark.parametrize("m", [1, 3, 4])
def test_it_is_ahead_of_random_with_other_numbers_of_objectives(m: int) -> None:
    functions = [additive(WIDE, seed) for seed in range(4)]

    def several(params: Mapping[str, Any]) -> list[float]:
        error, cost = FUNCTION(params)
        return [error, cost, functions[1](params)[1], functions[2](params)[0]][:m]

    space = ParameterSpace(WIDE)
    ref = np.max([several(space.params(x)) for x in draws(space, 2, 100)], axis=0)

    def found(sampler: optuna.samplers.BaseSampler, n: int) -> float:
        study = told(sampler, WIDE, several, n, ("minimize",) * m)
        return float(hypervolume([t.values for t in study.trials], ref))

    ours = found(auto(1, ref_point=ref.tolist()), 28)
    assert ours > max(found(make_sampler("random", seed=s), 56) for s in range(3))


def test_directions_change_nothing_but_the_sign() -> None:
    """The same study told as maximization makes the same proposals."""

    # shifted below zero, so that neither study may model a logarithm of what the other may not
    def minimized(params: Mapping[str, Any]) -> list[float]:
        error, cost = FUNCTION(params)
        return [error, cost - 100.0]

    def maximized(params: Mapping[str, Any]) -> list[float]:
        error, cost = FUNCTION(params)
        return [error, 100.0 - cost]

    down = told(auto(2), WIDE, minimized, 15)
    up = told(auto(2), WIDE, maximized, 15, ("minimize", "maximize"))
    assert [t.params for t in down.trials] == [t.params for t in up.trials]


# --- known objectives ------------------------------------------------------------------------------------


def known_cost(params: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, float]:
    return np.array([FUNCTION(p)[1] for p in params]), 0.0


def test_a_known_objective_is_worth_trials() -> None:
    with_known = [
        volume(told(auto(s, ref_point=REF, known={1: known_cost}), WIDE, FUNCTION, 15))
        for s in range(2)
    ]
    without = [volume(told(auto(s, ref_point=REF), WIDE, FUNCTION, 15)) for s in range(2)]
    assert np.mean(with_known) > np.mean(without)


def test_only_known_objectives_and_doubt_draws() -> None:
    """Of points with equal means the less sure one may improve the most: E[(best - y)_+] = 0.4 std where the mean is the best."""
    space: Space = {"x": CategoricalDistribution(tuple(range(30)))}

    def known(params: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        x = np.array([p["x"] for p in params])
        return np.where(x == 17, 1.0, 1.5), np.where(x == 23, 2.0, 0.0)

    study = optuna.create_study(sampler=auto(search_space=space, known={0: known}, n_startup=4))
    for x in (0, 1, 2, 3):
        study.add_trial(optuna.trial.create_trial(params={"x": x}, distributions=space, value=1.5))
    assert study.ask(space).params["x"] == 23  # 0.8 against 0.5 for the sure gain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"known": {2: known_cost}},
            r"expected known objectives among the 2 of the study, got indices \[2\]",
        ),
        ({"known": {-1: known_cost}}, "expected known to be a list of indices of objectives"),
        ({"known": {1: lambda p: (np.zeros(1), 0.0)}}, "expected known objective 1 to return"),
        (
            {"known": {1: lambda p: (np.full(len(p), np.nan), 0.0)}},
            "expected known objective 1 to return",
        ),
        (
            {"known": {1: lambda p: (np.zeros(len(p)), -1.0)}},
            "expected known objective 1 to return",
        ),
        ({"ref_point": [1.0]}, "expected a ref_point with 2 values like the study"),
    ],
)
def test_what_does_not_fit_the_study_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        told(auto(n_startup=3, **options), WIDE, FUNCTION, 6)


@pytest.mark.parametrize("options", [{"population": 9}, {"generations": 0}, {"n_startup": 1}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        StructuredSampler(seed=0, **options)


# --- resume ----------------------------------------------------------------------------------------------


def resumed_and_whole(
    n: int, further: int, make: Callable[[], Any], tell: Callable[[optuna.Trial], Any]
) -> tuple[list[Any], list[Any]]:
    """Proposals after n trials: of the sampler that made them all, and of a new one on a copy of the study."""

    def go_on(study: optuna.Study, count: int) -> None:
        for _ in range(count):
            trial = study.ask(WIDE)
            study.tell(trial, tell(trial))

    whole = optuna.create_study(directions=["minimize"] * 2, sampler=make())
    go_on(whole, n)
    copy = optuna.create_study(directions=["minimize"] * 2, sampler=make())
    copy.add_trials(whole.get_trials())
    go_on(whole, further)
    go_on(copy, further)
    return [t.params for t in copy.trials[n:]], [t.params for t in whole.trials[n:]]


def plain(trial: optuna.Trial) -> list[float]:
    return FUNCTION(trial.params)


def constrained(trial: optuna.Trial) -> list[float]:
    trial.set_constraint("width", float(trial.params["width"] - 600))
    return FUNCTION(trial.params)


def sometimes_infinite(trial: optuna.Trial) -> list[float]:
    error, cost = FUNCTION(trial.params)
    return [math.inf, cost] if trial.number % 6 == 4 else [error, cost]


@pytest.mark.parametrize(
    ("tell", "options"),
    [
        (plain, {}),
        (constrained, {}),
        (sometimes_infinite, {}),
        (plain, {"known": {1: known_cost}}),
    ],
    ids=["plain", "constrained", "infinite values", "known objective"],
)
def test_a_new_sampler_goes_on_as_the_old_one(
    tell: Callable[[optuna.Trial], Any], options: dict[str, Any]
) -> None:
    n = 37 if tell is plain and not options else 25
    found, expected = resumed_and_whole(n, 3, lambda: auto(3, search_space=WIDE, **options), tell)
    assert found == expected


def test_a_known_range_that_grows_changes_the_fits_of_every_sampler() -> None:
    """Known values are scaled by the range of all that was told: fits made before it grew are not those of a new sampler."""
    study = optuna.create_study(directions=["minimize"] * 2)
    old = auto(3, search_space=WIDE, known={1: known_cost})
    told(old, WIDE, FUNCTION, 21, study=study)  # the last proposal fitted the first 20
    for end in (0, -1):  # the cheapest point and the dearest
        params = {
            n: d.choices[end] for n, d in WIDE.items() if isinstance(d, CategoricalDistribution)
        }
        values = FUNCTION(params)
        study.add_trial(optuna.trial.create_trial(params=params, distributions=WIDE, values=values))
    copy = optuna.create_study(directions=["minimize"] * 2)
    copy.add_trials(study.get_trials())
    told(old, WIDE, FUNCTION, 25, study=study)
    told(auto(3, search_space=WIDE, known={1: known_cost}), WIDE, FUNCTION, 25, study=copy)
    assert [t.params for t in study.trials] == [t.params for t in copy.trials]


def test_a_sampler_of_two_studies_confuses_nothing() -> None:
    other = additive(WIDE, 5)
    alone = told(auto(4), WIDE, FUNCTION, 14)
    shared = auto(4)
    first = optuna.create_study(directions=["minimize"] * 2)
    second = optuna.create_study(directions=["minimize"] * 2)
    for n in range(1, 15):
        told(shared, WIDE, FUNCTION, n, study=first)
        told(shared, WIDE, other, n, study=second)
    assert [t.params for t in first.trials] == [t.params for t in alone.trials]
