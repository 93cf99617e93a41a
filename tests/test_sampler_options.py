"""What is asked of a sampler wrongly is refused where it is made; what a study tells it oddly does no harm."""

from __future__ import annotations

import math
import pickle
import time
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from nas.pareto import hypervolume
from nas.searchers import make_sampler, samplers
from nas.searchers.history import bounded_excess
from nas.searchers.model_sampler import SpaceExhaustedError
from nas.searchers.options import moments
from nas.searchers.parameters import ParameterSpace
from nas.searchers.structured.transfer import Source
from tests.structured_cases import Space

SMALL: Space = {"a": IntDistribution(1, 9, step=2), "b": CategoricalDistribution(("x", "y"))}
FAST: dict[str, Any] = {"population": 40, "generations": 2, "n_startup": 6}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ref_point": [math.nan, 1.0]}, "a finite ref_point"),
        ({"ref_point": "ab"}, "ref_point to be a list of numbers"),
        ({"ref_point": []}, "a finite ref_point"),
        ({"population": 10.5}, "population of 10 or more, a whole number"),
        ({"generations": True}, "generations of 1 or more, a whole number"),
        ({"n_startup": 2.5}, "n_startup of 2 or more, a whole number"),
        ({"sources": [3]}, "sources to be a list of Optuna studies"),
        ({"known": {0: 3}}, "known to be a mapping"),
        ({"known": {"a": len}}, "known to be a list of indices"),
        ({"canonical": 3}, "canonical to be a function"),
        ({"noisy": 1}, "noisy to be a list of indices"),
        ({"noisy": "a"}, "noisy to be a list of indices"),
        ({"noisy": [True]}, "noisy to be a list of indices"),
        ({"noisy": [-1]}, "noisy to be a list of indices"),
        ({"noisy": [0], "known": {0: len}}, "noisy objectives that are not known in advance"),
        ({"warm_start": 3}, "warm_start to be a list of params"),
        ({"warm_start": {"a": 1}}, "warm_start to be a list of params"),
        ({"without": "families"}, "without to be a list of"),
        ({"without": ["nothing"]}, "without to be a list of"),
        ({"search_space": {}}, "a search_space of one parameter or more"),
        ({"search_space": {"a": 3}}, "search_space to map names to Optuna distributions"),
        ({"search_space": SMALL, "warm_start": [{"z": 1}]}, "warm_start with parameters of"),
    ],
)
def test_wrong_options_are_refused_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"expected {said}".replace("(", "\\(")):
        make_sampler("auto", **options)


def test_numbers_of_numpy_are_numbers() -> None:
    made = make_sampler(
        "auto",
        seed=np.int64(3),
        n_startup=np.int32(5),
        noisy=np.array([1]).tolist(),
        ref_point=np.ones(2).tolist(),
    )
    assert isinstance(made, optuna.samplers.BaseSampler)


@pytest.mark.parametrize("name", ["random", "nsga2", "tpe", "auto", "qlognehvi"])
@pytest.mark.parametrize("params", [{"a": 100}, {"a": 2}, {"b": "z"}])
def test_a_warm_start_outside_the_space_is_refused(name: str, params: dict[str, Any]) -> None:
    study = optuna.create_study(sampler=make_sampler(name, warm_start=[params]))
    with pytest.raises(ValueError, match="expected warm_start with values that the space offers"):
        study.ask(SMALL)


@pytest.mark.parametrize(
    "returned",
    [3, ([1.0],), ([1.0, 2.0], [0.0]), ([math.nan], [0.0]), ([1.0], [-1.0]), ("a", 0.0), ([], [])],
)
def test_what_known_objectives_return_is_checked(returned: Any) -> None:
    with pytest.raises(ValueError, match="expected known objective 1 to return"):
        moments(1, returned, 1)


@pytest.mark.parametrize("name", sorted(samplers()))
def test_every_sampler_can_be_pickled_and_goes_on_the_same(name: str) -> None:
    sampler = make_sampler(name, seed=3)
    study = optuna.create_study(sampler=sampler)
    copy = optuna.create_study(sampler=pickle.loads(pickle.dumps(sampler)))
    assert study.ask(SMALL).params == copy.ask(SMALL).params


# --- constraints ---------------------------------------------------------------------------------------


def test_what_says_no_more_than_violated_is_moved_to_the_slack() -> None:
    inf = math.inf
    assert bounded_excess(np.array([-4.0, inf, 1e300, 9.0, 2.0, -1.0])).tolist() == [
        -4,
        4,
        4,
        4,
        2,
        -1,
    ]
    assert bounded_excess(np.array([-inf, 2.0, inf])).tolist() == [-2.0, 2.0, 2.0]
    assert bounded_excess(np.array([inf, 3.0, 5.0])).tolist() == [
        5.0,
        3.0,
        5.0,
    ]  # the least is sought
    assert bounded_excess(np.array([inf, inf])).tolist() == [1.0, 1.0]
    assert bounded_excess(np.array([-inf, -inf])).max() < 0.0
    told = bounded_excess(np.array([math.nan, -2.0, 0.0]))
    assert math.isnan(told[0])
    assert told[1:].tolist() == [-2.0, 0.0]


def constrained(name: str, told: Any, n_trials: int) -> tuple[float, list[float]]:
    """Feasible hypervolume, and the excess of every trial; the best of the objectives is forbidden."""
    space: Space = {f"l{i}": IntDistribution(1, 4) for i in range(6)}
    options = {"auto": FAST, "random": {}}.get(name, {"n_startup": 6, "effort": 0.3})
    study = optuna.create_study(
        directions=["minimize"] * 2, sampler=make_sampler(name, seed=1, **options)
    )
    values, excesses = [], []
    for _ in range(n_trials):
        trial = study.ask(space)
        sizes = list(trial.params.values())
        excess = sum(sizes) - 14.0
        trial.set_constraint("bound", told(excess))
        y = [-excess, sum((v - 2.2) ** 2 * (i + 1) for i, v in enumerate(sizes))]
        study.tell(trial, y)
        excesses.append(excess)
        if excess <= 0.0:
            values.append(y)
    return float(hypervolume(values, [20.0, 60.0])), excesses


@pytest.mark.filterwarnings("error:.*:RuntimeWarning")
@pytest.mark.parametrize("name", ["auto", "qlognehvi"])
@pytest.mark.parametrize(
    "told",
    [
        lambda excess: math.inf if excess > 0 else excess,
        lambda excess: 1e9 if excess > 0 else excess,
        lambda excess: 1.7e308 if excess > 0 else -1.0,
        lambda excess: 1e300 * excess,
    ],
    ids=["inf", "penalty", "greatest float", "1e300"],
)
def test_penalties_for_constraints_do_not_blind_the_search(name: str, told: Any) -> None:
    found, excesses = constrained(name, told, 34)
    # that a point is infeasible says less than by how much
    assert found > 0.85 * constrained(name, lambda excess: excess, 34)[0]
    assert found > constrained("random", lambda excess: excess, 34)[0]
    assert sum(e <= 0.0 for e in excesses) >= 6


def test_when_everything_is_infinitely_infeasible_the_search_goes_on() -> None:
    for name in ("auto", "qlognehvi"):
        _, excesses = constrained(name, lambda excess: math.inf, 10)
        assert len(excesses) == 10


def test_a_source_offers_its_feasible_front() -> None:
    space: Space = {"x": FloatDistribution(0.0, 1.0)}
    study = optuna.create_study(directions=["minimize"] * 2)
    for x in (0.1, 0.2, 0.5, 0.7, 0.9):
        study.enqueue_trial({"x": x})
        trial = study.ask(space)
        trial.set_constraint("bound", x - 0.6)
        study.tell(trial, [x, 1.0 - x])
    assert sorted(Source(study, ParameterSpace(space)).front_nd[:, 0].tolist()) == [0.1, 0.2, 0.5]


# --- threads, and asking in vain -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["auto", "qlognehvi"])
def test_threads_of_one_study_do_not_repeat_each_other(name: str) -> None:
    def objective(trial: optuna.Trial) -> tuple[float, float]:
        time.sleep(0.01)
        values = [trial.suggest_int(f"x{i}", 0, 3) for i in range(4)]
        return float(sum(values)), -float(values[0])

    options = FAST if name == "auto" else {"n_startup": 6, "effort": 0.1}
    study = optuna.create_study(
        directions=["minimize"] * 2, sampler=make_sampler(name, seed=0, **options)
    )
    study.optimize(objective, n_trials=24, n_jobs=3)
    # the first trials of a study without a given space know nothing of each other
    later = [tuple(t.params.items()) for t in study.trials[4:]]
    assert len(set(later)) == len(later)


@pytest.mark.parametrize("name", ["auto", "qlognehvi"])
def test_asking_in_vain_leaves_no_trial_running(name: str) -> None:
    space: Space = {"a": IntDistribution(1, 2)}
    study = optuna.create_study(sampler=make_sampler(name, seed=0, n_startup=2))
    for _ in range(2):
        trial = study.ask(space)
        study.tell(trial, float(trial.params["a"]))
    for _ in range(2):
        with pytest.raises(SpaceExhaustedError):
            study.ask(space)
    states = [t.state for t in study.trials]
    assert states == [TrialState.COMPLETE] * 2 + [TrialState.FAIL] * 2


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("name", ["auto", "qlognehvi"])
def test_optimizing_an_exhausted_space_says_so(name: str, n_jobs: int) -> None:
    study = optuna.create_study(sampler=make_sampler(name, seed=0, n_startup=2))
    with pytest.raises(SpaceExhaustedError, match="space exhausted"):
        study.optimize(lambda trial: trial.suggest_int("a", 1, 3), n_trials=9, n_jobs=n_jobs)
    states = [t.state for t in study.trials]
    assert states.count(TrialState.COMPLETE) == 3
    assert TrialState.RUNNING not in states


def test_a_bare_baseline_is_no_proof_of_an_empty_space() -> None:
    study = optuna.create_study(sampler=make_sampler("auto", seed=0, n_startup=2))
    study.add_trial(optuna.create_trial(value=1.0))
    study.optimize(lambda trial: trial.suggest_int("a", 1, 3), n_trials=2)
    assert all(t.params["a"] in (1, 2, 3) for t in study.trials[1:])
