"""Samplers by name, and the multi-objective samplers on studies."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import pytest
from contracts_searcher import DISCRETE, SamplerContract, proposals, run, score
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    IntDistribution,
)

from nas.pareto import hypervolume
from nas.searchers import default_ref_point, make_sampler, samplers
from nas.searchers.bayesian_sampler import BayesianSampler
from nas.searchers.indexed import give_up, index_of
from nas.searchers.model_sampler import SpaceExhaustedError

FloatArray = npt.NDArray[np.float64]

FAST = {"n_startup": 6, "effort": 0.3}


POPULATION = {"population_size": 4}


STARTUP = {"n_startup_trials": 6}


class TestAuto(SamplerContract):
    name = "auto"
    options: dict[str, Any] = {"n_startup": 6, "population": 40, "generations": 2}  # noqa: RUF012
    no_repeats = True


class TestRandom(SamplerContract):
    name = "random"


class TestNSGA2(SamplerContract):
    name = "nsga2"
    options = POPULATION


class TestNSGA3(SamplerContract):
    name = "nsga3"
    options = POPULATION


class TestTPE(SamplerContract):
    name = "tpe"
    options = STARTUP


class TestGP(SamplerContract):
    name = "gp"
    options = STARTUP
    n_trials = 8
    n_running = 2


class TestNEHVI(SamplerContract):
    name = "qlognehvi"
    options = FAST
    no_repeats = True


class TestNParEGO(SamplerContract):
    name = "qlognparego"
    options = FAST
    no_repeats = True


# --- by name ---------------------------------------------------------------------------------------


def test_the_contract_covers_every_sampler() -> None:
    covered = {cls.name for cls in SamplerContract.__subclasses__()}
    assert covered == set(samplers())


@pytest.mark.parametrize(
    ("typo", "meant"), [("qlognehv", "qlognehvi"), ("nsga", "nsga2"), ("TPE", "tpe")]
)
def test_a_typo_gets_near_names(typo: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"expected a sampler in auto.*got '{typo}'.*{meant}"):
        make_sampler(typo, seed=0)


@pytest.mark.parametrize("name", samplers())
def test_wrong_options_are_refused_at_once(name: str) -> None:
    with pytest.raises(ValueError, match="expected options of the sampler"):
        make_sampler(name, seed=0, no_such_option=1)
    with pytest.raises(ValueError, match="expected a seed"):
        make_sampler(name, seed=-1)


@pytest.mark.parametrize(
    "options", [{"n_startup": 1}, {"effort": 0.0}, {"num_draws": 1}, {"acquisition": "ei"}]
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        BayesianSampler(seed=0, **options)


def test_importing_the_searchers_does_not_import_botorch() -> None:
    code = (
        "import sys, nas.searchers; print(any(m.split('.')[0] == 'botorch' for m in sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


# --- the sampler -------------------------------------------------------------------------------------


SMALL = {"a": CategoricalDistribution((1, 2, 3, 4)), "b": IntDistribution(0, 5)}


@pytest.mark.parametrize("name", ["qlognehvi", "qlognparego"])
def test_every_point_once_then_exhausted(name: str) -> None:
    study = optuna.create_study(directions=["minimize"] * 2)
    study.sampler = make_sampler(name, seed=0, search_space=SMALL, **FAST)
    for _ in range(24):
        trial = study.ask(SMALL)
        study.tell(trial, [trial.params["a"], 10.0 - trial.params["b"]])
    points = {(p["a"], p["b"]) for p in proposals(study)}
    assert points == set(itertools.product((1, 2, 3, 4), range(6)))
    with pytest.raises(SpaceExhaustedError, match="24 points"):
        study.ask(SMALL)


def test_running_points_are_not_proposed() -> None:
    study = optuna.create_study(directions=["minimize"] * 2)
    study.sampler = make_sampler("qlognehvi", seed=0, search_space=SMALL, n_startup=4)
    for _ in range(6):
        trial = study.ask(SMALL)
        study.tell(trial, [trial.params["a"], 10.0 - trial.params["b"]])
    asked = [tuple(study.ask(SMALL).params.values()) for _ in range(18)]
    told = {tuple(p.values()) for p in proposals(study)}
    assert len({*asked}) == 18
    assert not told & {*asked}


def test_points_that_mean_the_same_are_proposed_once() -> None:
    space: dict[str, BaseDistribution] = {
        "depth": CategoricalDistribution((1, 2)),
        "first": CategoricalDistribution((0, 1, 2)),
        "second": CategoricalDistribution((0, 1, 2)),
    }

    def canonical(params: dict[str, Any]) -> dict[str, Any]:
        return params if params["depth"] == 2 else params | {"second": 0}

    study = optuna.create_study(directions=["minimize"] * 2)
    study.sampler = make_sampler(
        "qlognehvi", seed=1, search_space=space, canonical=canonical, n_startup=4
    )
    for _ in range(12):  # 3 of depth 1, 9 of depth 2
        trial = study.ask(space)
        study.tell(trial, [trial.params["first"] + trial.params["depth"], -trial.params["second"]])
    assert len({tuple(canonical(p).values()) for p in proposals(study)}) == 12
    with pytest.raises(SpaceExhaustedError):
        study.ask(space)


@pytest.mark.parametrize("workers", [1, 3], ids=["alone", "others running"])
def test_indices_are_the_smallest_free(workers: int) -> None:
    study = optuna.create_study(sampler=make_sampler("random", seed=0))
    running = [study.ask(SMALL) for _ in range(workers)]
    give_up(study, running[0]._trial_id)
    lost = running[0].params
    again, further = study.ask(SMALL), study.ask(SMALL)
    assert again.params == lost
    trials = study.trials
    assert index_of(trials[again.number]) == 0
    assert index_of(trials[further.number]) == workers


def test_trials_that_wait_in_a_queue_hold_no_index() -> None:
    study = optuna.create_study(sampler=make_sampler("random", seed=0))
    plain = optuna.create_study(sampler=make_sampler("random", seed=0))
    unqueued = [plain.ask(SMALL).params for _ in range(3)]
    study.enqueue_trial(unqueued[0])
    study.enqueue_trial({"a": 3})
    asked = [study.ask(SMALL) for _ in range(3)]
    assert [index_of(t) for t in study.trials] == [0, 1, 2]
    assert [asked[0].params, asked[2].params] == [unqueued[0], unqueued[2]]
    assert asked[1].params["a"] == 3


@pytest.mark.parametrize("name", ["random", "nsga2", "auto"])
def test_a_point_that_always_fails_does_not_end_the_search(name: str) -> None:
    def objective(trial: optuna.Trial) -> float:
        total = trial.suggest_int("a", 0, 9) + trial.suggest_int("b", 0, 9)
        return math.nan if total > 11 else float(total)

    study = optuna.create_study(sampler=make_sampler(name, seed=0))
    study.optimize(objective, n_trials=40)
    assert len(proposals(study)) > 20


def zdt1(params: dict[str, Any]) -> list[float]:
    """ZDT1 with 15 choices of 5 values (Zitzler et al. 2000, eq. 7): the front is f2 = 1 - sqrt(f1), reached where g = 1."""
    x = np.array([params[f"x{i}"] for i in range(15)]) / 4.0
    g = 1.0 + 9.0 * float(np.mean(x[1:]))
    return [float(x[0]), g * (1.0 - math.sqrt(x[0] / g))]


ZDT1: dict[str, BaseDistribution] = {
    f"x{i}": CategoricalDistribution((0, 1, 2, 3, 4)) for i in range(15)
}


REF = [1.1, 7.0]


def volume_after(name: str, seed: int, n_trials: int, **options: Any) -> float:
    """Hypervolume of ZDT1 that a sampler has found."""
    study = optuna.create_study(directions=["minimize"] * 2)
    study.sampler = make_sampler(name, seed=seed, **options)
    for _ in range(n_trials):
        trial = study.ask(ZDT1)
        study.tell(trial, zdt1(trial.params))
    return float(hypervolume([t.values for t in study.trials], REF))


@pytest.mark.parametrize("name", ["qlognehvi", "qlognparego"])
def test_ours_beats_random_search_and_nears_the_optimum(name: str) -> None:
    front = [[a / 4.0, 1.0 - math.sqrt(a / 4.0)] for a in range(5)]
    optimum = float(hypervolume(front, REF))
    ours = [volume_after(name, s, 30, ref_point=REF, effort=0.5) for s in range(3)]
    random = [volume_after("random", s, 30) for s in range(3)]
    assert min(ours) > max(random)
    assert np.mean(ours) > 0.9 * optimum


def test_a_known_objective_is_used_and_not_learned() -> None:
    """An objective that no model can learn, and that is known, is still searched well."""
    seen: set[str] = set()

    def noise(params: dict[str, Any]) -> float:
        return zlib.crc32(str(sorted(params.items())).encode()) / 2**32

    def known(params: Any) -> tuple[FloatArray, float]:
        assert len(params) > 0
        assert not seen & {str(p) for p in params}  # a point is asked about once
        seen.update(str(p) for p in params)
        return np.array([noise(p) for p in params]), 0.0

    def volume(seed: int, **options: Any) -> float:
        seen.clear()
        study = optuna.create_study(directions=["minimize"] * 2)
        study.sampler = make_sampler(
            "qlognehvi", seed=seed, ref_point=[7.0, 1.0], n_startup=5, effort=0.3, **options
        )
        for _ in range(11):
            trial = study.ask(ZDT1)
            study.tell(trial, [zdt1(trial.params)[1], noise(trial.params)])
        return float(hypervolume([t.values for t in study.trials], [7.0, 1.0]))

    without = [volume(seed) for seed in range(3)]
    assert np.mean([volume(seed, known={1: known}) for seed in range(3)]) > np.mean(without) + 0.3


def test_an_uncertain_known_objective_draws_around_its_mean() -> None:
    """With one uncertain known objective alone, the sampler maximizes E[max(best - y, 0)], which grows with the uncertainty."""
    space: dict[str, BaseDistribution] = {"x": CategoricalDistribution(tuple(range(30)))}

    def known(params: Any) -> tuple[FloatArray, FloatArray]:
        x = np.array([p["x"] for p in params])
        return np.where(x == 17, 1.0, 1.5), np.where(x == 23, 2.0, 0.0)

    study = optuna.create_study()
    study.sampler = make_sampler(
        "qlognehvi", seed=0, search_space=space, known={0: known}, n_startup=4
    )
    for x in (0, 1, 2, 3):
        trial = optuna.trial.create_trial(params={"x": x}, distributions=space, value=1.5)
        study.add_trial(trial)
    assert study.ask(space).params["x"] == 23  # E = 0.8 against 0.5 for the sure gain


@pytest.mark.parametrize(
    "wrong", [lambda p: (np.zeros(1), 0.0), lambda p: (np.full(len(p), np.nan), 0.0)]
)
def test_a_broken_known_objective_is_refused(wrong: Any) -> None:
    sampler = make_sampler("qlognehvi", seed=0, known={1: wrong}, **FAST)
    with pytest.raises(ValueError, match="expected known objective 1 to return"):
        run(sampler, DISCRETE, 10)


@pytest.mark.parametrize("options", [{"known": {5: len}}, {"ref_point": [1.0, 1.0, 1.0]}])
def test_options_that_do_not_fit_the_study_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        run(make_sampler("qlognehvi", seed=0, **FAST, **options), DISCRETE, 10)


def test_constraints_steer_the_proposals() -> None:
    def feasible_volume(name: str, seed: int, **options: Any) -> float:
        study = optuna.create_study(directions=["minimize"] * 2)
        study.sampler = make_sampler(name, seed=seed, **options)
        for _ in range(25):
            trial = study.ask(ZDT1)
            x = np.array([trial.params[f"x{i}"] for i in range(15)])
            trial.set_constraint(
                "last", float(np.sum(x[8:]) - 9.0)
            )  # a fifth of all points keep to it
            study.tell(trial, zdt1(trial.params))
        kept = [t.values for t in study.trials if t.constraints["last"] <= 0.0]
        return float(hypervolume(np.array(kept).reshape(-1, 2), REF))

    ours = [
        feasible_volume("qlognehvi", s, ref_point=REF, n_startup=6, effort=0.3) for s in range(2)
    ]
    random = [feasible_volume("random", s) for s in range(4)]
    assert min(ours) > max(random)


def test_it_works_while_no_trial_is_feasible() -> None:
    study = optuna.create_study(directions=["minimize"] * 2)
    study.sampler = make_sampler("qlognehvi", seed=0, **FAST)
    for number in range(9):
        trial = study.ask(DISCRETE)
        trial.set_constraint("never", 1.0 + number % 2)
        study.tell(trial, score(trial.params, 2))
    assert study.best_trials == []
    assert len(proposals(study)) == 9


def test_it_works_under_another_default_dtype_and_device() -> None:
    code = (
        "import torch, optuna; torch.set_default_dtype(torch.float16); torch.set_default_device('meta')\n"
        "from contracts_searcher import run, proposals, DISCRETE\n"
        "from nas.searchers import make_sampler\n"
        "print(len(proposals(run(make_sampler('qlognehvi', seed=0, n_startup=4), DISCRETE, 6))))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd="tests",
        env=_environment(),
    )
    assert found.stdout.strip() == "6", found.stderr


def _environment() -> dict[str, str]:
    import os

    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([os.getcwd(), os.path.join(os.getcwd(), "tests")]),
    }


@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2), min_size=1, max_size=8))
def test_default_ref_point_is_worse_than_every_point(points: list[list[float]]) -> None:
    ref = default_ref_point(points)
    assert np.all(ref > np.array(points).max(axis=0))
