"""Dominance against brute force, hypervolume against closed forms, inclusion-exclusion and BoTorch."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nas.objectives import Evaluation, Objective
from nas.pareto import (
    Hypervolume,
    ParetoFront,
    hypervolume,
    non_dominated_mask,
    normalized_hypervolume,
)
from search_spaces import Architecture, LayerConfig
from surrogates import Prediction

Points = npt.NDArray[np.float64]

# Few different values: ties and duplicates in every example.
integer_points = st.integers(1, 4).flatmap(
    lambda m: hnp.arrays(
        np.float64, st.tuples(st.integers(0, 12), st.just(m)), elements=st.integers(0, 6).map(float)
    )
)


def brute_force_mask(Y: Points) -> npt.NDArray[np.bool_]:
    def dominates(a: Points, b: Points) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and any(
            x < y for x, y in zip(a, b, strict=True)
        )

    return np.array([not any(dominates(a, b) for a in Y) for b in Y], dtype=bool)


def count_cells(Y: Points, ref: npt.ArrayLike) -> int:
    """Hypervolume of integer points below an integer ref: unit cells whose lower corner a point weakly dominates."""
    ref = np.asarray(ref, dtype=int)
    return sum(
        any(all(y <= c for y, c in zip(point, cell, strict=True)) for point in Y)
        for cell in itertools.product(*(range(int(r)) for r in ref))
    )


def inclusion_exclusion(Y: Points, ref: Points) -> float:
    """Volume of a union of boxes: alternating sum over all subsets of the volumes of their intersections."""
    total = 0.0
    for size in range(1, len(Y) + 1):
        for subset in itertools.combinations(range(len(Y)), size):
            corner = Y[list(subset)].max(axis=0)
            total -= (-1) ** size * float(np.prod(np.maximum(ref - corner, 0.0)))
    return total


@given(integer_points)
def test_mask_equals_brute_force(Y: Points) -> None:
    np.testing.assert_array_equal(non_dominated_mask(Y), brute_force_mask(Y))


def test_mask_of_many_points() -> None:
    rng = np.random.default_rng(0)
    for m in (1, 2, 3, 4):
        Y = rng.random((400, m)).round(2)
        np.testing.assert_array_equal(non_dominated_mask(Y), brute_force_mask(Y))


def test_mask_keeps_all_of_equal_points() -> None:
    Y = [[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [2.0, 2.0], [-0.0, 9.0], [0.0, 9.0]]
    assert non_dominated_mask(Y).tolist() == [True, True, True, False, True, True]


def test_mask_of_nothing() -> None:
    assert non_dominated_mask(np.zeros((0, 3))).shape == (0,)
    assert non_dominated_mask([]).shape == (0,)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite_values_are_refused(value: float) -> None:
    Y = [[1.0, 2.0], [0.5, value]]
    for call in (
        lambda: non_dominated_mask(Y),
        lambda: hypervolume(Y, [3.0, 3.0]),
        lambda: hypervolume([[1.0, 2.0]], [3.0, value]),
        lambda: normalized_hypervolume(Y, [0.0, 0.0], [3.0, 3.0]),
    ):
        with pytest.raises(ValueError, match="finite"):
            call()


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="matrix"):
        non_dominated_mask([1.0, 2.0])
    with pytest.raises(ValueError, match="2 values"):
        hypervolume([[1.0, 2.0]], [3.0, 3.0, 3.0])
    with pytest.raises(ValueError, match="ref_point"):
        hypervolume([[1.0, 2.0]], [])
    with pytest.raises(ValueError, match="ideal below"):
        normalized_hypervolume([[1.0, 2.0]], [0.0, 3.0], [3.0, 3.0])
    with pytest.raises(ValueError, match="2 values"):
        normalized_hypervolume([[1.0, 2.0]], [0.0] * 3, [3.0] * 3)


@pytest.mark.parametrize("n", [1, 2, 7, 30, 201])
def test_staircase_in_two_dimensions(n: int) -> None:
    """Points (i, n - 1 - i) below (n, n): column i holds i + 1 cells, n (n + 1) / 2 in all."""
    Y = np.array([[i, n - 1 - i] for i in range(n)], dtype=float)
    shuffled = np.random.default_rng(n).permutation(Y)
    assert hypervolume(shuffled, [n, n]) == n * (n + 1) // 2


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_simplex_staircase(n: int, m: int) -> None:
    """All integer points of coordinate sum n - 1 below (n, ..., n): the n^m cells less the C(n + m - 2, m) of smaller sum."""
    Y = [p for p in itertools.product(range(n), repeat=m) if sum(p) == n - 1]
    below = math.comb(n - 2 + m, m)  # cells with coordinate sum n - 2 or less
    assert hypervolume(Y, [n] * m) == n**m - below


@given(integer_points)
def test_hypervolume_counts_cells(Y: Points) -> None:
    ref = np.full(Y.shape[1], 5)
    volume = hypervolume(Y, ref)
    assert volume == count_cells(Y, ref)
    assert volume.num_beyond == sum(any(y > 5 for y in point) for point in Y)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_hypervolume_equals_inclusion_exclusion(m: int) -> None:
    rng = np.random.default_rng(m)
    for _ in range(5):
        Y, ref = rng.normal(size=(9, m)), np.full(m, 0.8)
        inside = np.array([y for y in Y if np.all(y < ref)]).reshape(-1, m)
        assert hypervolume(Y, ref) == pytest.approx(inclusion_exclusion(inside, ref), rel=1e-9)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_hypervolume_equals_botorch(m: int) -> None:
    oracle = pytest.importorskip("botorch.utils.multi_objective.hypervolume").Hypervolume
    rng = np.random.default_rng(m)
    Y = rng.random((60, m))
    Y = Y[brute_force_mask(Y)]
    expected = oracle(torch.full((m,), -1.1, dtype=torch.float64)).compute(-torch.tensor(Y))
    assert hypervolume(Y, [1.1] * m) == pytest.approx(expected, rel=1e-12)


@given(integer_points, st.randoms(use_true_random=False))
def test_hypervolume_ignores_order_duplicates_and_dominated_points(Y: Points, random: Any) -> None:
    ref = np.full(Y.shape[1], 5.0)
    rows = list(range(len(Y))) * 2
    random.shuffle(rows)
    assert hypervolume(Y[rows], ref) == hypervolume(Y, ref)
    assert hypervolume(Y[brute_force_mask(Y)], ref) == hypervolume(Y, ref)


@given(integer_points)
def test_hypervolume_never_shrinks_by_a_point(Y: Points) -> None:
    ref = np.full(Y.shape[1], 5.0)
    trace = [hypervolume(Y[:i], ref) for i in range(len(Y) + 1)]
    assert trace[0] == 0.0
    assert all(a <= b for a, b in itertools.pairwise(trace))


def test_points_beyond_the_ref_point_are_counted_not_lost() -> None:
    Y = [[1.0, 1.0], [0.0, 9.0], [9.0, 9.0], [3.0, 0.0]]
    volume = hypervolume(Y, [3.0, 3.0])
    assert volume == 4.0  # [3, 0] lies on the boundary: no volume, and not beyond
    assert volume.num_beyond == 2
    assert hypervolume([[9.0, 9.0]], [3.0, 3.0]) == 0.0
    assert hypervolume([], [3.0, 3.0]).num_beyond == 0
    assert isinstance(volume, float)
    assert json.dumps(volume) == "4.0"


def test_normalized_hypervolume() -> None:
    Y = [[12.0, 110.0], [15.0, 105.0]]
    share = normalized_hypervolume(Y, [10.0, 100.0], [20.0, 120.0])
    # in units of a tenth and a twentieth of the box: (2, 10) and (5, 5) below (10, 20): 8 x 10 + 5 x 5 of 200
    assert share == pytest.approx(105 / 200, rel=1e-12)
    assert (share.num_beyond, share.num_clipped) == (0, 0)
    assert normalized_hypervolume([[10.0, 100.0]], [10.0, 100.0], [20.0, 120.0]) == 1.0
    better = normalized_hypervolume([[5.0, 110.0], [30.0, 110.0]], [10.0, 100.0], [20.0, 120.0])
    assert better == 0.5
    assert (better.num_beyond, better.num_clipped) == (1, 1)
    assert normalized_hypervolume([], [0.0], [1.0]) == 0.0


def measured(perplexity: float, size: int, embed_dim: int = 128) -> Evaluation:
    architecture = Architecture(embed_dim, (LayerConfig(2, 1.0),))
    return Evaluation(architecture, {"perplexity": perplexity, "weight_bytes": size, "params": 7})


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=12))
def test_front_equals_brute_force(pairs: list[tuple[int, int]]) -> None:
    evaluations = [measured(float(p), s, 64 + i) for i, (p, s) in enumerate(pairs)]
    front = ParetoFront(evaluations, ["perplexity", "weight_bytes"], [5.0, 5.0])
    Y = np.array(pairs, dtype=float).reshape(-1, 2)
    expected = [e for e, keep in zip(evaluations, brute_force_mask(Y), strict=True) if keep]
    assert list(front.evaluations) == expected
    assert front.values_nm.tolist() == [
        [e.value("perplexity"), e.value("weight_bytes")] for e in expected
    ]
    assert front.hypervolume == count_cells(Y, [5, 5])
    assert front.num_beyond == int(np.any(front.values_nm > 5.0, axis=1).sum())
    assert ParetoFront.from_json(json.loads(json.dumps(front.to_json()))) == front


def test_front_is_frozen_and_ordered_by_its_objectives() -> None:
    evaluations = [measured(2.0, 30), measured(3.0, 20, 64), measured(4.0, 40, 32)]
    front = ParetoFront(
        evaluations, ["weight_bytes", "perplexity"], {"perplexity": 5.0, "weight_bytes": 50.0}
    )
    assert front.objectives == (Objective.parse("weight_bytes"), Objective.parse("perplexity"))
    assert front.ref_point == (50.0, 5.0)
    assert front.values_nm.tolist() == [[30.0, 2.0], [20.0, 3.0]]
    assert front.hypervolume == 20 * 3 + 10 * 2
    assert front.normalized_hypervolume([0.0, 0.0]) == pytest.approx(80 / 250)
    with pytest.raises(ValueError, match="read-only"):
        front.values_nm[0, 0] = 1.0
    with pytest.raises(AttributeError):
        front.ref_point = None  # type: ignore[misc]
    assert hash(front) == hash(ParetoFront(evaluations[:2], front.objectives, front.ref_point))


def test_front_refuses_guesses_and_contradictions() -> None:
    guess = Prediction(*(np.ones(1) for _ in range(4)))
    with pytest.raises(TypeError, match="Prediction"):
        ParetoFront([measured(1.0, 1), guess], ["perplexity"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="measure"):
        ParetoFront([{"perplexity": 1.0}], ["perplexity"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="decode_ms"):
        ParetoFront([measured(1.0, 1)], ["perplexity", "decode_ms"])
    with pytest.raises(ValueError, match="different objectives"):
        ParetoFront([measured(1.0, 1)], ["perplexity", "perplexity"])
    with pytest.raises(ValueError, match="different objectives"):
        ParetoFront([measured(1.0, 1)], [])
    with pytest.raises(ValueError, match="2 finite values"):
        ParetoFront([measured(1.0, 1)], ["perplexity", "params"], [1.0])
    with pytest.raises(ValueError, match="a value for each"):
        ParetoFront([measured(1.0, 1)], ["perplexity", "params"], {"perplexity": 1.0})
    with pytest.raises(ValueError, match="ref_point"):
        _ = ParetoFront([measured(1.0, 1)], ["perplexity", "params"]).hypervolume
    with pytest.raises(ValueError, match="expected a front"):
        ParetoFront.from_json({"objectives": []})


def test_empty_front() -> None:
    front = ParetoFront([], ["perplexity", "params"], [1.0, 1.0])
    assert len(front) == 0
    assert front.values_nm.shape == (0, 2)
    assert front.hypervolume == Hypervolume(0.0)
