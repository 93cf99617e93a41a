"""The sampler ``auto`` on whole studies: how far it gets, and what it makes of every kind of study."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
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
from nas.searchers.parameters import ParameterSpace
from nas.searchers.structured.sampler import StructuredSampler
from tests.structured_cases import (
    DEEP,
    EVERY_KIND,
    WIDE,
    Function,
    Space,
    active_part,
    additive,
    draws,
    of_active_layers,
    told,
)

FAST: dict[str, Any] = {"population": 60, "generations": 3}
FUNCTION = additive(WIDE, 0)
REF = [
    float(v)
    for v in np.max(
        [FUNCTION(ParameterSpace(WIDE).params(x)) for x in draws(ParameterSpace(WIDE), 0, 200)],
        axis=0,
    )
]


def auto(seed: int = 0, **options: Any) -> optuna.samplers.BaseSampler:
    return make_sampler("auto", seed=seed, **(FAST | options))


def volume(study: optuna.Study, function: Function = FUNCTION) -> float:
    """Hypervolume of what the study's points are truly worth."""
    return float(hypervolume([function(t.params) for t in study.trials], REF))


def best_volume() -> float:
    """Hypervolume of the optimum: for every weight of the two sums, the best value of every parameter alone."""
    front = []
    names = list(WIDE)
    for weight in np.linspace(0.0, 1.0, 101):
        params = {}
        for name in names:
            dist = WIDE[name]
            assert isinstance(dist, CategoricalDistribution)
            base = {
                n: d.choices[0] for n, d in WIDE.items() if isinstance(d, CategoricalDistribution)
            }
            scored = []
            for choice in dist.choices:
                error, cost = FUNCTION(base | {name: choice})
                scored.append((weight * error + (1.0 - weight) * cost, choice))
            params[name] = min(scored)[1]
        front.append(FUNCTION(params))
    return float(hypervolume(front, REF))


def mean_random(n_trials: int, seeds: int = 5) -> float:
    return float(
        np.mean(
            [
                volume(told(make_sampler("random", seed=s), WIDE, FUNCTION, n_trials))
                for s in range(seeds)
            ]
        )
    )


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
        ({"known": {-1: known_cost}}, "expected known objectives among the 2 of the study"),
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


# --- batches, duplicates, and spaces of every kind -----------------------------------------------------------


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
    """Optuna fills in parameters without a choice itself and never asks a sampler: such a study goes on as long as it is asked."""
    one: Space = {"a": CategoricalDistribution((3,)), "b": IntDistribution(2, 2)}
    study = told(auto(search_space=one, n_startup=2), one, lambda p: [1.0, 2.0], 4)
    assert [t.params for t in study.trials] == [{"a": 3, "b": 2}] * 4


def test_one_choice_beside_parameters_without_any() -> None:
    space: Space = {"a": CategoricalDistribution((3,)), "b": IntDistribution(2, 3)}
    study = told(auto(search_space=space, n_startup=2), space, lambda p: [float(p["b"]), 1.0], 2)
    assert {t.params["b"] for t in study.trials} == {2, 3}
    with pytest.raises(SpaceExhaustedError, match="space exhausted"):
        study.ask(space)


def test_an_empty_space_is_nothing_to_propose() -> None:
    study = optuna.create_study(sampler=auto())
    for _ in range(4):
        study.tell(study.ask({}), 1.0)
    assert [t.params for t in study.trials] == [{}] * 4


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

    study = told(auto(0, n_startup=8), DEEP, deep, 36)
    parts = [active_part(t.params) for t in study.trials]
    shallow = [i for i, t in enumerate(study.trials) if i >= 16 and t.params["depth"] < 4]
    assert len(shallow) > 4
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
