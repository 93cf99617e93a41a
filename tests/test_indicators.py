"""IGD+, R2, additive epsilon and knees against loops, closed forms and their invariances."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nas.pareto import (
    additive_epsilon,
    igd_plus,
    knee_distances,
    knee_point,
    r2,
    scaled,
    simplex_weights,
)
from nas.pareto import indicators as indicators_module

Points = npt.NDArray[np.float64]


def some_points(n: int, m: int, seed: int) -> Points:
    return np.random.default_rng(seed).normal(size=(n, m))


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_indicators_equal_loops(m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of two rows, so that several blocks are joined."""
    monkeypatch.setattr(indicators_module, "_CELLS", 2 * 9 * m)
    Y, reference, weights = some_points(9, m, 0), some_points(7, m, 1), simplex_weights(m, 5)
    ideal = Y.min(axis=0) - 0.1
    igd = [
        min(math.sqrt(sum(max(y - r, 0) ** 2 for y, r in zip(p, q, strict=True))) for p in Y)
        for q in reference
    ]
    epsilon = max(min(max(y - r for y, r in zip(p, q, strict=True)) for p in Y) for q in reference)
    tchebycheff = [
        min(max(w * (y - z) for w, y, z in zip(ws, p, ideal, strict=True)) for p in Y)
        for ws in weights
    ]
    assert igd_plus(Y, reference) == pytest.approx(sum(igd) / len(igd), rel=1e-12)
    assert additive_epsilon(Y, reference) == pytest.approx(epsilon, rel=1e-12)
    assert r2(Y, ideal, weights) == pytest.approx(sum(tchebycheff) / len(weights), rel=1e-12)


def test_published_values() -> None:
    """Ishibuchi et al. 2015, example of Fig. 3: the set that is dominated has the lower IGD, and the higher IGD+."""
    reference = [[0, 10], [1, 6], [2, 2], [6, 1], [10, 0]]
    dominating, dominated = [[2, 4], [3, 3], [4, 2]], [[2, 8], [4, 4], [8, 2]]
    assert igd_plus(dominating, reference) < igd_plus(dominated, reference)
    assert igd_plus(dominating, reference) == pytest.approx(
        (2 + 1 + math.sqrt(2) + 1 + 2) / 5  # (2,4), (2,4), (3,3), (4,2), (4,2)
    )


integer_sets = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 6), st.just(3)), elements=st.integers(0, 6)
)


@given(integer_sets, integer_sets)
def test_indicators_are_weakly_pareto_compliant(A: Points, reference: Points) -> None:
    """Moving every point to where it dominates, or adding points, makes no indicator worse."""
    better = np.concatenate([np.maximum(A - 1.0, 0.0), A[:1]])
    for indicator in (igd_plus, additive_epsilon):
        assert indicator(better, reference) <= indicator(A, reference) + 1e-12
    assert r2(better, [0.0] * 3) <= r2(A, [0.0] * 3) + 1e-12
    covered = all(np.any(np.all(r >= A, axis=1)) for r in reference)
    assert (igd_plus(A, reference) == 0.0) == covered
    assert (additive_epsilon(A, reference) <= 0.0) == covered


def test_r2_of_the_ideal_is_zero_and_of_one_point_known() -> None:
    assert r2([[1.0, 2.0]], [1.0, 2.0]) == 0.0
    # of (1, 1) above (0, 0): the larger of w and 1 - w, 3/4 on average over [0, 1]
    assert r2([[1.0, 1.0]], [0.0, 0.0]) == pytest.approx(0.75, abs=1e-3)
    with pytest.raises(ValueError, match="ideal not above any point"):
        r2([[1.0, 1.0]], [0.0, 2.0])
    with pytest.raises(ValueError, match="sum to 1"):
        r2([[1.0, 1.0]], [0.0, 0.0], [[0.5, 0.6]])
    with pytest.raises(ValueError, match="sum to 1"):
        r2([[1.0, 1.0]], [0.0, 0.0], [[1.5, -0.5]])
    with pytest.raises(ValueError, match="shape"):
        r2([[1.0, 1.0]], [0.0, 0.0], [[1.0]])


@pytest.mark.parametrize(("m", "divisions"), [(1, 3), (2, 4), (3, 4), (4, 3)])
def test_simplex_weights_are_the_lattice(m: int, divisions: int) -> None:
    weights = simplex_weights(m, divisions)
    if m == 1:
        assert weights.tolist() == [[1.0]]
        return
    lattice = [
        [c / divisions for c in counts]
        for counts in itertools.product(range(divisions + 1), repeat=m)
        if sum(counts) == divisions
    ]
    assert weights.tolist() == lattice


def test_default_weights_are_about_five_hundred() -> None:
    assert [len(simplex_weights(m)) for m in (2, 3, 4)] == [500, 528, 560]
    with pytest.raises(ValueError, match="1 or more"):
        simplex_weights(0)
    with pytest.raises(ValueError, match="1 or more"):
        simplex_weights(2, 0)


def test_scaled_brings_the_box_to_one() -> None:
    Y = scaled([[10.0, 5e6], [20.0, 1e6]], [10.0, 1e6], [20.0, 9e6])
    assert Y.tolist() == [[0.0, 0.5], [1.0, 0.0]]
    with pytest.raises(ValueError, match="below the worst"):
        scaled([[1.0]], [1.0], [1.0])
    with pytest.raises(ValueError, match="2 values"):
        scaled([[1.0, 2.0]], [0.0], [1.0])


def test_sets_that_do_not_fit_are_refused() -> None:
    for indicator in (igd_plus, additive_epsilon):
        with pytest.raises(ValueError, match="one point or more on both sides"):
            indicator([], [[1.0]])
        with pytest.raises(ValueError, match="as many objectives"):
            indicator([[1.0]], [[1.0, 2.0]])
        with pytest.raises(ValueError, match="finite"):
            indicator([[math.nan]], [[1.0]])


# --- knees


def test_distance_of_two_objectives_is_that_to_the_line_through_the_ends() -> None:
    x = np.linspace(0.0, 1.0, 41)
    Y = np.column_stack([3.0 + 5.0 * x, 7.0 - 2.0 * np.sqrt(x)])  # on different scales
    u = (Y - Y.min(axis=0)) / np.ptp(Y, axis=0)
    (a, b) = u[0], u[-1]
    cross = (b[0] - a[0]) * (u[:, 1] - a[1]) - (b[1] - a[1]) * (u[:, 0] - a[0])
    np.testing.assert_allclose(
        np.abs(knee_distances(Y)), np.abs(cross) / np.linalg.norm(b - a), atol=1e-12
    )
    assert x[knee_point(Y)] == pytest.approx(0.25)  # where the slope of 1 - sqrt(x) is -1


@pytest.mark.parametrize("m", [2, 3, 4])
def test_the_point_that_bulges_is_the_knee_whatever_the_units(m: int) -> None:
    ends = 1.0 - np.eye(m)  # best in one objective, worst in the others
    Y = np.concatenate([ends, np.full((1, m), 0.3), np.full((1, m), 0.35) - 0.1 * np.eye(m)[:1]])
    expected = int(np.argmin(Y.sum(axis=1)))
    scale = 10.0 ** np.arange(m)
    assert knee_point(Y) == knee_point(Y * scale + 4.0) == expected
    np.testing.assert_allclose(knee_distances(Y * scale + 4.0), knee_distances(Y), atol=1e-12)


def test_fronts_without_a_bulge_and_with_a_constant_objective() -> None:
    assert knee_point([[0.0, 1.0], [1.0, 0.0]]) == 0  # both are ends: the first
    assert knee_distances([[0.0, 1.0], [0.9, 0.9], [1.0, 0.0]])[1] < 0.0
    assert knee_distances([[2.0, 2.0]] * 2).tolist() == [0.0, 0.0]
    with_constant = [[0.0, 5.0, 1.0], [0.2, 5.0, 0.2], [1.0, 5.0, 0.0]]
    assert knee_point(with_constant) == 1
    np.testing.assert_allclose(
        knee_distances(with_constant), knee_distances(np.delete(with_constant, 1, axis=1))
    )
    assert knee_distances([]).shape == (0,)
    with pytest.raises(ValueError, match="one point or more, got none"):
        knee_point([])
