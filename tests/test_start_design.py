"""Where a search with a model begins: the corners, and points whose families lean to one side each."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from nas.searchers.parameters import ParameterSpace
from nas.searchers.start_design import family_draws, start_design
from nas.searchers.structured.features import FeatureMap
from tests.structured_cases import EVERY_KIND, WIDE, Space

SMALL: Space = {
    **{f"layer{i}.heads": IntDistribution(0, 3) for i in range(4)},
    "pattern": CategoricalDistribution(("dense", "2:4", "block")),
    "bias": CategoricalDistribution((False, True)),
}


def test_family_draws_lie_in_the_space() -> None:
    space = ParameterSpace({**WIDE, **EVERY_KIND})
    X = family_draws(space, FeatureMap(space).family_d, np.random.default_rng(0), 50)
    assert X.shape == (50, space.dim)
    for x in X:
        params = space.params(x)
        for name, dist in space.distributions.items():
            assert dist._contains(dist.to_internal_repr(params[name]))
        assert space.point(params).tolist() == x.tolist()
    assert family_draws(space, FeatureMap(space).family_d, np.random.default_rng(0), 0).shape == (
        0,
        space.dim,
    )


def test_families_are_drawn_to_one_side_each() -> None:
    space = ParameterSpace(WIDE)
    family_d = FeatureMap(space).family_d
    X = family_draws(space, family_d, np.random.default_rng(1), 400)
    uniform = space.random(np.random.default_rng(2), 400)
    for g in (0, 1):
        sums, plain = (points[:, family_d == g].sum(axis=1) for points in (X, uniform))
        assert sums.std() > 2.0 * plain.std()
        assert sums.min() <= 3.0
        assert sums.max() >= 23.0  # of 26
        assert abs(sums.mean() - 13.0) < 1.0
    first, second = (X[:, family_d == g].sum(axis=1) for g in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2  # each to a side of its own
    alone = np.bincount(X[:, 26].astype(int), minlength=3)
    assert alone.min() > 120  # a parameter of its own: a Latin hypercube over three values


def test_unordered_families_lean_to_every_value() -> None:
    space = ParameterSpace(
        {f"layer{i}": CategoricalDistribution(("a", "b", "c")) for i in range(10)}
    )
    drawn = family_draws(space, FeatureMap(space).family_d, np.random.default_rng(3), 300)
    counts = np.stack([(drawn == v).sum(axis=1) for v in range(3)], axis=1)
    uniform = space.random(np.random.default_rng(4), 300)
    plain = np.stack([(uniform == v).sum(axis=1) for v in range(3)], axis=1)
    assert np.all(counts.std(axis=0) > 1.3 * plain.std(axis=0))
    assert set(counts.argmax(axis=1)) == {0, 1, 2}
    shares = counts.sum(axis=0) / counts.sum()
    assert shares == pytest.approx(np.full(3, 1 / 3), abs=0.06)


def test_every_value_of_every_member_is_drawn() -> None:
    space = ParameterSpace({**SMALL, "layer4.heads": IntDistribution(0, 3)})
    X = family_draws(space, FeatureMap(space).family_d, np.random.default_rng(5), 200)
    for d, parameter in enumerate(space.parameters):
        assert {*X[:, d].astype(int)} == {*range(parameter.size)}
    assert len({*itertools.chain(map(space.key, X))}) > 150


def test_a_design_begins_with_the_corners_and_a_longer_one_with_the_shorter() -> None:
    space = ParameterSpace({**WIDE, **EVERY_KIND})
    family_d = FeatureMap(space).family_d
    long, short, other = (
        start_design(space, family_d, seed, n, 8) for seed, n in ((1, 30), (1, 11), (2, 30))
    )
    assert long.shape == (30, space.dim)
    assert long[:11].tolist() == short.tolist()
    assert long.tolist() != other.tolist()
    for d, parameter in enumerate(space.parameters):
        if parameter.ordered:
            last = 1.0 if parameter.values is None else parameter.size - 1
            assert long[:2, d].tolist() == [0.0, last]
    assert start_design(space, family_d, 0, 0, 8).shape == (0, space.dim)
