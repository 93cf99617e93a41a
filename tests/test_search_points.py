"""Points of a space as Optuna's parameters and as numbers of a unit cube, there and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from contracts_searcher import DISCRETE
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from nas.searchers.parameters import ParameterSpace


def distributions() -> st.SearchStrategy[BaseDistribution]:
    integers = st.tuples(st.integers(1, 50), st.integers(0, 300), st.integers(1, 7), st.booleans())
    floats = st.tuples(st.floats(1e-4, 10.0), st.floats(0.01, 100.0), st.sampled_from("clq"))

    def integer(args: tuple[int, int, int, bool]) -> BaseDistribution:
        low, span, step, log = args
        if log:
            return IntDistribution(low, low + span, log=True)
        return IntDistribution(low, low + span // step * step, step=step)

    def real(args: tuple[float, float, str]) -> BaseDistribution:
        low, span, kind = args
        if kind == "q":
            return FloatDistribution(low, low + 4 * span, step=span)
        return FloatDistribution(low, low + span, log=kind == "l")

    values = st.one_of(st.integers(-5, 5), st.text(max_size=3), st.booleans(), st.none())
    choices = st.lists(values, min_size=1, max_size=5, unique=True)
    return st.one_of(
        integers.map(integer), floats.map(real), choices.map(lambda v: CategoricalDistribution(tuple(v)))
    )  # fmt: skip


spaces = st.lists(distributions(), min_size=1, max_size=5).map(
    lambda found: ParameterSpace({f"p{i}": d for i, d in enumerate(found)})
)


@given(spaces, st.integers(0, 2**32 - 1))
def test_points_and_params_are_inverse(space: ParameterSpace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for x in space.random(rng, 5):
        params = space.params(x)
        for name, distribution in space.distributions.items():
            assert distribution._contains(distribution.to_internal_repr(params[name]))
        assert space.key(space.point(params)) == space.key(x)
    F = space.features(space.random(rng, 5))
    assert np.all((F >= 0.0) & (F <= 1.0))


@given(spaces, st.integers(0, 2**32 - 1))
def test_neighbors_differ_in_one_parameter_and_offspring_stay_inside(
    space: ParameterSpace, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = space.random(rng, 1)[0]
    for y in space.neighbors(x, rng):
        assert np.sum(y != x) <= 1
        assert space.key(space.point(space.params(y))) == space.key(y)
    for y in space.offspring(space.random(rng, 3), rng, 5):
        assert space.key(space.point(space.params(y))) == space.key(y)


def test_neighbors_of_a_grid_are_all_one_choice_changes() -> None:
    space = ParameterSpace({n: d for n, d in DISCRETE.items() if n != "fixed"})
    listed = [space.list_points(np.array([i]))[0] for i in range(3 * 3 * 2 * 4)]
    assert space.cardinality == len({space.key(x) for x in listed}) == 72
    x = listed[37]
    brute = {space.key(y) for y in listed if np.sum(y != x) == 1}
    found = {space.key(y) for y in space.neighbors(x, np.random.default_rng(0))}
    assert found == brute


def test_unordered_values_are_equally_far_apart_and_ordered_ones_are_not() -> None:
    space = ParameterSpace(
        {
            "p": CategoricalDistribution(("a", "b", "c")),
            "n": CategoricalDistribution((16, 4, 1)),
            "m": CategoricalDistribution((4, 16, 1)),
        }
    )

    def distance(one: tuple[Any, ...], two: tuple[Any, ...]) -> float:
        a, b = (
            space.features(space.point(dict(zip("pnm", v, strict=True)))[None]) for v in (one, two)
        )
        return float(np.sum((a - b) ** 2))

    base = ("a", 16, 4)
    assert distance(base, ("b", 16, 4)) == pytest.approx(1.0)
    assert distance(base, ("c", 16, 4)) == pytest.approx(1.0)
    assert distance(base, ("a", 4, 4)) == pytest.approx(0.25)  # sorted, so ordered: half the way
    assert distance(base, ("a", 1, 4)) == pytest.approx(1.0)
    assert distance(base, ("a", 16, 16)) == pytest.approx(1.0)  # not sorted, so unordered


def test_the_design_fills_the_space_and_grows() -> None:
    space = ParameterSpace({f"p{i}": CategoricalDistribution((0, 1)) for i in range(12)})
    short, long = space.design(3, 8), space.design(3, 32)
    assert np.array_equal(short, long[:8])
    assert np.all(long.mean(axis=0) == 0.5)  # a Sobol sequence balances every choice exactly
