"""Columns of points, families of alike parameters, and the counter that switches layers off."""

from __future__ import annotations

import math

import numpy as np
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from scipy.special import eval_legendre

from nas.searchers.parameters import ParameterSpace
from nas.searchers.structured.features import FeatureMap
from tests.structured_cases import DEEP, EVERY_KIND, WIDE, draws

GRIDS = {
    "ordered": CategoricalDistribution((64, 128, 256, 512)),
    "falling": CategoricalDistribution((3, 2, 1)),
    "unordered": CategoricalDistribution(("dense", "2:4", "block")),
    "two unordered": CategoricalDistribution(("no", "yes")),
    "bools": CategoricalDistribution((False, True)),
    "steps of integers": IntDistribution(2, 11, step=2),
    "integers by logarithm": IntDistribution(1, 8, log=True),
    "steps of floats": FloatDistribution(0.0, 1.0, step=0.25),
}
LINES = {
    "float": FloatDistribution(-1.0, 1.0),
    "float by logarithm": FloatDistribution(1e-5, 1e-1, log=True),
    "many integers": IntDistribution(1, 200),
    "many integers by logarithm": IntDistribution(1, 200, log=True),
}


def columns_of_all_values(distribution: BaseDistribution) -> np.ndarray:
    space = ParameterSpace({"x": distribution})
    assert space.cardinality is not None
    return FeatureMap(space)(space.list_points(np.arange(space.cardinality))).own_np


@pytest.mark.parametrize("distribution", GRIDS.values(), ids=GRIDS.keys())
def test_columns_of_a_grid_are_orthogonal_contrasts(distribution: BaseDistribution) -> None:
    F = columns_of_all_values(distribution)
    k = len(F)
    is_ordered = k == 2 or not isinstance(distribution, CategoricalDistribution)
    is_ordered = is_ordered or not isinstance(distribution.choices[0], str)
    assert F.shape == (k, k - 1)
    assert F.sum(axis=0) == pytest.approx(np.zeros(k - 1), abs=1e-12)
    # smooth effects are likelier along a line; unordered values are all alike
    scale = 1.0 / np.arange(1, k) if is_ordered else np.ones(k - 1)
    assert F.T @ F / k == pytest.approx(np.diag(scale**2), abs=1e-12)
    if not is_ordered:
        apart = ((F[:, None] - F[None, :]) ** 2).sum(axis=2)
        assert apart == pytest.approx(2.0 * k * (1.0 - np.eye(k)), abs=1e-12)


@pytest.mark.parametrize("distribution", [GRIDS["ordered"], GRIDS["steps of integers"]])
def test_the_rth_column_of_ordered_values_is_a_polynomial_of_degree_r(
    distribution: BaseDistribution,
) -> None:
    F = columns_of_all_values(distribution)
    rank = np.linspace(-1.0, 1.0, len(F))
    for r in range(1, len(F)):
        fit = np.polynomial.Polynomial.fit(rank, F[:, r - 1], r)
        assert fit(rank) == pytest.approx(F[:, r - 1], abs=1e-10)
        assert abs(fit.convert().coef[r]) > 1e-6
        assert F[-1, r - 1] > 0.0  # the sign does not depend on the LAPACK at hand


@pytest.mark.parametrize("distribution", LINES.values(), ids=LINES.keys())
def test_columns_of_a_line_are_legendre_polynomials(distribution: BaseDistribution) -> None:
    space = ParameterSpace({"x": distribution})
    X = draws(space, 0, 50)
    F = FeatureMap(space)(X).own_np
    for r in range(1, 5):
        expected = eval_legendre(r, 2.0 * X[:, 0] - 1.0) * math.sqrt(2 * r + 1) / r
        assert F[:, r - 1] == pytest.approx(expected, abs=1e-12)
    assert F.shape == (50, 4)


def test_many_ordered_values_are_a_line_by_their_rank() -> None:
    F = columns_of_all_values(IntDistribution(0, 20))
    x = np.linspace(-1.0, 1.0, 21)
    expected = [eval_legendre(r, x) * math.sqrt(2 * r + 1) / r for r in range(1, 5)]
    assert pytest.approx(np.stack(expected, axis=1), abs=1e-12) == F


@pytest.mark.parametrize(
    "fixed",
    [
        CategoricalDistribution((7,)),
        CategoricalDistribution(("gelu",)),
        IntDistribution(3, 3),
        FloatDistribution(0.5, 0.5),
    ],
    ids=str,
)
def test_a_parameter_with_one_value_has_no_columns(fixed: BaseDistribution) -> None:
    space = ParameterSpace({"free": IntDistribution(0, 3), "fixed": fixed})
    features = FeatureMap(space)
    assert features.parameter_p.tolist() == [0, 0, 0]
    assert features(draws(space, 0, 5)).own_np.shape == (5, 3)
    alone = ParameterSpace({"fixed": fixed})
    assert FeatureMap(alone)(draws(alone, 0, 5)).own_np.shape == (5, 0)


def test_families_are_parameters_alike_but_for_a_number() -> None:
    space = ParameterSpace(
        {
            "layer0.heads": IntDistribution(1, 3),
            "layer1.heads": IntDistribution(1, 3),
            "layer0.ratio": IntDistribution(1, 3),
            "layer10.heads": IntDistribution(1, 3),
            "layer2.heads": IntDistribution(1, 4),  # other values: another decision
            "layers.heads": IntDistribution(1, 3),
        }
    )
    family = FeatureMap(space).family_d.tolist()
    assert family == [0, 0, 1, 0, 2, 3]
    assert FeatureMap(space).members_g.tolist() == [3, 1, 1, 1]


def test_shared_columns_are_sums_over_the_family() -> None:
    space = ParameterSpace({**WIDE, **EVERY_KIND})
    features = FeatureMap(space, num_extra=1)
    X, extra = draws(space, 1, 9), np.random.default_rng(1).random((9, 1))
    columns = features(X, extra_ne=extra)
    blocks = []
    for g in range(features.num_families):
        members = np.flatnonzero(features.family_d == g)
        per_member = [columns.own_np[:, features.parameter_p == i] for i in members]
        blocks.append(sum(per_member))
    assert columns.shared_ns == pytest.approx(np.concatenate(blocks, axis=1), abs=1e-12)
    widths = [block.shape[1] for block in blocks]
    assert features.family_s.tolist() == np.repeat(np.arange(len(widths)), widths).tolist()


def test_a_family_has_the_variance_of_one_parameter() -> None:
    """The members' columns are scaled so that a family of 13 weighs in the prior what a parameter of its own does."""
    space = ParameterSpace(WIDE)
    features = FeatureMap(space)
    F = features(draws(space, 2, 4000)).own_np
    first = [np.flatnonzero(features.parameter_p == i)[0] for i in range(space.dim)]
    variance = F[:, first].var(axis=0)
    assert variance[:13].sum() == pytest.approx(1.0, rel=0.05)
    assert variance[26] == pytest.approx(1.0, rel=0.05)


def test_extra_columns_are_polynomials_beside_the_parameters() -> None:
    space = ParameterSpace(DEEP)
    X, extra = draws(space, 3, 7), np.random.default_rng(3).random((7, 2))
    plain, more = FeatureMap(space), FeatureMap(space, num_extra=2)
    assert more.num_parameters == plain.num_parameters + 2
    found = more(X, extra_ne=extra).own_np
    assert np.array_equal(found[:, : plain(X).own_np.shape[1]], plain(X).own_np)
    expected = eval_legendre(1, 2.0 * extra - 1.0) * math.sqrt(3.0)
    assert found[:, [-8, -4]] == pytest.approx(expected)


# --- the counter ------------------------------------------------------------------------------------


def test_the_gate_switches_off_the_layers_beyond_the_depth() -> None:
    space = ParameterSpace(DEEP)
    features = FeatureMap(space, num_extra=1)
    X, extra = draws(space, 4, 40), np.random.default_rng(4).random((40, 1))
    open_, gated = features(X, False, extra), features(X, True, extra)
    names = [p.name for p in space.parameters]
    for i in range(len(X)):
        depth = space.params(X[i])["depth"]
        for p, parameter in enumerate(features.parameter_p.tolist()):
            name = names[parameter] if parameter < len(names) else "extra"
            is_off = name.startswith("layer") and int(name[5]) >= depth
            assert gated.own_np[i, p] == (0.0 if is_off else open_.own_np[i, p])
    assert gated.shared_ns == pytest.approx(
        FeatureMap(space, num_extra=1)(X, True, extra).own_np @ features._sum_ps
    )
    assert not np.array_equal(gated.shared_ns, open_.shared_ns)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(
    "depth",
    [
        IntDistribution(1, 3),
        IntDistribution(0, 3),
        CategoricalDistribution((1, 2, 3)),
        CategoricalDistribution((3, 1)),
    ],
    ids=str,
)
def test_a_counter_is_found(first: int, depth: BaseDistribution) -> None:
    layers = {f"h.{i + first}.heads": CategoricalDistribution((1, 2)) for i in range(3)}
    space = ParameterSpace({"width": IntDistribution(1, 2), **layers, "n": depth})
    gate = FeatureMap(space).gate
    assert gate is not None
    assert gate.counter == 4
    assert gate.position_d.tolist() == [-1, 0, 1, 2, -1]
    active = gate.active(np.array([space.point(space.params(x)) for x in draws(space, 0, 20)]))
    for x, row in zip(draws(space, 0, 20), active, strict=True):
        count = space.params(x)["n"]
        assert row.tolist() == [True, *(i < count for i in range(3)), True]


NO_COUNTER: dict[str, dict[str, BaseDistribution]] = {
    "bools": {"c": CategoricalDistribution((False, True))},
    "a bool among integers": {"c": CategoricalDistribution((False, 2))},
    "words": {"c": CategoricalDistribution(("1", "2"))},
    "greater integers": {"c": IntDistribution(1, 3)},
    "smaller integers": {"c": IntDistribution(0, 1)},
    "negative integers": {"c": IntDistribution(-1, 2)},
    "a single value": {"c": CategoricalDistribution((2,))},
    "a line": {"c": FloatDistribution(0.0, 2.0)},
    "out of order": {"c": CategoricalDistribution((1, 2, 0))},
}


@pytest.mark.parametrize("other", NO_COUNTER.values(), ids=NO_COUNTER.keys())
def test_what_counts_nothing_is_no_counter(other: dict[str, BaseDistribution]) -> None:
    layers = {f"layer{i}.heads": CategoricalDistribution((4, 8)) for i in range(2)}
    assert FeatureMap(ParameterSpace({**layers, **other})).gate is None
    assert FeatureMap(ParameterSpace({**layers, "c": IntDistribution(1, 2)})).gate is not None


def test_without_layers_there_is_no_gate() -> None:
    assert FeatureMap(ParameterSpace(EVERY_KIND)).gate is None
    alone = {"block1": IntDistribution(0, 1), "n": IntDistribution(0, 1)}
    assert FeatureMap(ParameterSpace(alone)).gate is None  # one layer cannot be counted
    late = {f"layer{i}": IntDistribution(1, 2) for i in (5, 6)} | {"n": IntDistribution(1, 2)}
    assert FeatureMap(ParameterSpace(late)).gate is None  # layers are numbered from 0 or 1
