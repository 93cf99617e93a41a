"""Earlier studies of the same space: what they tell a new one, and which are refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution

from nas.pareto import hypervolume
from nas.searchers import make_sampler
from nas.searchers.parameters import ParameterSpace
from nas.searchers.structured.belief import Belief, Data, describe
from nas.searchers.structured.features import FeatureMap
from nas.searchers.structured.transfer import Source, read_sources
from tests.structured_cases import WIDE, Array, Space, additive, draws, study_of, told

SPACE = ParameterSpace(WIDE)
FUNCTION = additive(WIDE, 0)
FAST = {"population": 60, "generations": 3}


def elsewhere(params: Any) -> list[float]:
    """The same architectures on another device: ranked alike, but neither in proportion nor on the same scale."""
    error, cost = FUNCTION(params)
    return [0.5 * error + 3.0, math.exp(0.15 * cost)]


def study_elsewhere(n: int, seed: int = 0, function: Any = elsewhere) -> optuna.Study:
    params = [SPACE.params(x) for x in draws(SPACE, seed, n)]
    return study_of(WIDE, params, [function(p) for p in params])


def values_of(X: Array, j: int) -> Array:
    return np.array([FUNCTION(SPACE.params(x))[j] for x in X])


def error_after(n: int, extra: Source | None, j: int) -> float:
    """Share of the variance of an objective that a belief of n values leaves unexplained."""
    X, Z = draws(SPACE, 50, n), draws(SPACE, 51, 300)
    features = FeatureMap(SPACE, num_extra=0 if extra is None else 1)
    columns = [None if extra is None else extra.column(j, points)[:, None] for points in (X, Z)]
    data = Data(X, values_of(X, j), columns[0])
    belief = Belief(features, data, describe(features, data))
    found, truth = belief.typical(belief.columns(Z, columns[1])), values_of(Z, j)
    return float(np.mean((found - truth) ** 2) / truth.var())


@pytest.mark.parametrize("objective", [0, 1])
def test_a_source_explains_most_after_a_dozen_trials(objective: int) -> None:
    source = Source(study_elsewhere(120), SPACE)
    without, with_source = (error_after(12, s, objective) for s in (None, source))
    assert with_source < 0.1
    assert with_source < 0.25 * without


def test_a_source_that_ranks_otherwise_does_little_harm() -> None:
    other = additive(WIDE, 7)
    rng = np.random.default_rng(0)

    def noise(params: Any) -> list[float]:
        return rng.normal(size=len(other(params))).tolist()

    source = Source(study_elsewhere(80, 1, noise), SPACE)
    assert error_after(40, source, 1) < 1.5 * error_after(40, None, 1) + 0.02


def test_a_column_is_a_position_in_the_range_seen_there() -> None:
    study = study_elsewhere(60)
    source = Source(study, SPACE)
    X = draws(SPACE, 2, 200)
    column = source.column(1, X)
    assert column.shape == (200,)
    assert column.min() >= 0.0
    assert column.max() <= 1.0
    truth = np.array([elsewhere(SPACE.params(x))[1] for x in X])
    assert np.corrcoef(column, np.log(truth))[0, 1] > 0.98
    told_points = np.array([SPACE.point(t.params) for t in study.trials])
    at_told = source.column(1, told_points)
    assert at_told.min() == 0.0
    assert at_told.max() == 1.0


def test_maximized_objectives_of_a_source_are_turned_round() -> None:
    params = [SPACE.params(x) for x in draws(SPACE, 3, 40)]
    down = study_of(WIDE, params, [[*elsewhere(p)] for p in params])
    up = optuna.create_study(directions=["minimize", "maximize"])
    for p in params:
        error, cost = elsewhere(p)
        up.add_trial(
            optuna.trial.create_trial(params=p, distributions=WIDE, values=[error, 99.0 - cost])
        )
    X = draws(SPACE, 4, 50)
    first, second = Source(down, SPACE), Source(up, SPACE)
    columns = first.column(1, X), second.column(1, X)
    assert np.corrcoef(*columns)[0, 1] > 0.8  # the same order, though on another scale
    assert {*map(bytes, first.front_nd)} == {*map(bytes, second.front_nd)}


def test_the_front_of_a_source_is_its_non_dominated_points() -> None:
    study = study_elsewhere(40)
    expected = {SPACE.key(SPACE.point(t.params)) for t in study.best_trials}
    assert {SPACE.key(x) for x in Source(study, SPACE).front_nd} == expected


def test_the_first_proposals_are_members_of_the_sources_fronts() -> None:
    study = study_elsewhere(60)
    front = [t.params for t in study.best_trials]
    assert len(front) > 3
    new = told(
        make_sampler("auto", seed=0, search_space=WIDE, sources=[study], **FAST), WIDE, FUNCTION, 10
    )
    from_front = [t.params in front for t in new.trials]
    assert from_front == [True] * min(len(front), 5) + [False] * (10 - min(len(front), 5))


def test_a_search_with_a_source_is_ahead() -> None:
    ref = [
        float(v) for v in np.max([FUNCTION(SPACE.params(x)) for x in draws(SPACE, 5, 200)], axis=0)
    ]
    source = told(make_sampler("auto", seed=9, search_space=WIDE, **FAST), WIDE, elsewhere, 30)

    def volume(seed: int, **options: Any) -> float:
        sampler = make_sampler(
            "auto", seed=seed, search_space=WIDE, ref_point=ref, **FAST, **options
        )
        return float(hypervolume([t.values for t in told(sampler, WIDE, FUNCTION, 13).trials], ref))

    assert volume(0, sources=[source]) > max(volume(seed) for seed in range(2))


# --- refused ------------------------------------------------------------------------------------------


def test_a_source_of_other_parameters_is_refused() -> None:
    space: Space = {"layer0.heads": CategoricalDistribution((4, 8))}
    study = study_of(space, [{"layer0.heads": 4}] * 9, [[1.0, 2.0]] * 9)
    study.study_name = "other"
    with pytest.raises(
        ValueError,
        match=r"expected sources with 5 complete trials.*got 0 of 9.*same names and choices",
    ):
        Source(study, SPACE)
    sampler = make_sampler("auto", seed=0, search_space=WIDE, sources=[study])
    with pytest.raises(ValueError, match="expected sources with 5 complete trials"):
        told(sampler, WIDE, FUNCTION, 1)


def test_a_source_with_too_few_trials_is_refused() -> None:
    with pytest.raises(ValueError, match="got 4 of 4"):
        read_sources([study_elsewhere(4)], SPACE)
    assert len(read_sources([study_elsewhere(5), study_elsewhere(6)], SPACE)) == 2


def test_a_source_with_another_number_of_objectives_is_refused() -> None:
    source = study_elsewhere(20, function=lambda params: elsewhere(params)[:1])
    sampler = make_sampler("auto", seed=0, search_space=WIDE, sources=[source], n_startup=3, **FAST)
    with pytest.raises(
        ValueError, match="expected sources with 2 objectives like this study, got 1"
    ):
        told(sampler, WIDE, FUNCTION, 5)
