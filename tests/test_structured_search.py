"""The inner search and its first draws: in the space, unseen, and where the score is best."""

from __future__ import annotations

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from nas.searchers.parameters import ParameterSpace
from nas.searchers.structured.features import FeatureMap
from nas.searchers.structured.inner_search import InnerSearch
from tests.structured_cases import WIDE, Array, Space

SMALL: Space = {
    **{f"layer{i}.heads": IntDistribution(0, 3) for i in range(4)},
    "pattern": CategoricalDistribution(("dense", "2:4", "block")),
    "bias": CategoricalDistribution((False, True)),
}


def inner(
    space: ParameterSpace, seed: int = 0, seen: frozenset[bytes] = frozenset(), **options: int
) -> InnerSearch:
    return InnerSearch(
        space,
        FeatureMap(space).family_d,
        lambda X: X,
        seen,
        np.random.default_rng(seed),
        **({"population": 40, "generations": 4} | options),
    )


def table_of(space: ParameterSpace, seed: int) -> dict[bytes, float]:
    """A score of every point: effects of every value, and of every pair of neighboring parameters."""
    assert space.cardinality is not None
    rng = np.random.default_rng(seed)
    effects = rng.normal(size=(space.dim, 8))
    pairs = 0.5 * rng.normal(size=(space.dim, 8, 8))
    found = {}
    for x in space.list_points(np.arange(space.cardinality)):
        i = x.astype(int)
        value = effects[np.arange(space.dim), i].sum()
        value += sum(pairs[d, i[d], i[d + 1]] for d in range(space.dim - 1))
        found[space.key(x)] = float(value)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_the_best_of_all_points_is_found(seed: int) -> None:
    space = ParameterSpace(SMALL)  # 1536 points, of which a search scores a few hundred
    table = table_of(space, seed)
    asked: set[bytes] = set()

    def score(X: Array) -> Array:
        asked.update(space.key(x) for x in X)
        return np.array([table[space.key(x)] for x in X])

    start = space.list_points(np.arange(1))
    found = inner(space, seed, generations=6).best(score, start)
    assert found is not None
    assert found[1] == table[space.key(found[0])] == max(table.values())
    assert len(asked) < 700


def test_seen_points_are_parents_and_never_found() -> None:
    space = ParameterSpace(SMALL)
    table = table_of(space, 9)
    by_score = sorted(table, key=table.__getitem__, reverse=True)
    points = {space.key(x): x for x in space.list_points(np.arange(len(table)))}

    def score(X: Array) -> Array:
        return np.array([table[space.key(x)] for x in X])

    seen = frozenset(by_score[:30])
    found = inner(space, 1, seen).best(score, np.array([points[k] for k in by_score[:5]]))
    assert found is not None
    assert space.key(found[0]) not in seen
    assert found[1] >= table[by_score[40]]  # of the best that are left


def test_nothing_unseen_is_nothing_found() -> None:
    space = ParameterSpace({"a": IntDistribution(0, 2), "b": IntDistribution(0, 1)})
    points = space.list_points(np.arange(6))
    seen = frozenset(space.key(x) for x in points)

    def score(X: Array) -> Array:
        return X.sum(axis=1)

    assert inner(space, 0, seen).best(score, points[:1]) is None
    but_one = seen - {space.key(points[2])}
    found = inner(space, 0, but_one).best(score, points[:1])
    assert found is not None
    assert found[0].tolist() == points[2].tolist()


def test_points_are_scored_in_their_canonical_form() -> None:
    space = ParameterSpace(SMALL)

    def canonical(X: Array) -> Array:  # the last choice means nothing
        Y = X.copy()
        Y[:, -1] = 0.0
        return Y

    def score(X: Array) -> Array:
        assert not X[:, -1].any()
        assert len({space.key(x) for x in X}) == len(X)  # and each once in a batch
        return X.sum(axis=1)

    search = inner(space)
    search.canonical = canonical
    found = search.best(score, space.list_points(np.array([0, 1])))
    assert found is not None
    assert found[0].tolist() == [3.0, 3.0, 3.0, 3.0, 2.0, 0.0]


def test_continuous_parameters_are_climbed() -> None:
    space = ParameterSpace(
        {"x": FloatDistribution(-1.0, 1.0), "y": FloatDistribution(1e-4, 1.0, log=True)}
    )

    def score(X: Array) -> Array:
        return -np.sum((X - [0.31, 0.77]) ** 2, axis=1)

    found = inner(space).best(score, space.random(np.random.default_rng(0), 1))
    assert found is not None
    assert found[0] == pytest.approx([0.31, 0.77], abs=0.05)
    assert space.point(space.params(found[0])).tolist() == found[0].tolist()


def test_the_generator_decides() -> None:
    space = ParameterSpace(WIDE)

    def score(X: Array) -> Array:
        return -np.abs(X.sum(axis=1) - 20.5)  # thousands are best

    start = space.random(np.random.default_rng(0), 1)
    first, again, other = (inner(space, seed).best(score, start) for seed in (3, 3, 4))
    assert first is not None
    assert again is not None
    assert other is not None
    assert first[0].tolist() == again[0].tolist() != other[0].tolist()
