"""Shares of the best known hypervolume, and how that front is found."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.searchers import best_known
from nas.pareto import non_dominated_mask
from search_spaces import SearchSpace
from surrogates.additive.choices import ChoiceVectors
from surrogates.additive.encoding import Encoded, Encoder
from surrogates.base import FloatArray
from surrogates.problem import Problem
from tests.searchers_cases import line
from tests.small_spaces import GPT2


def test_shares_of_a_line_by_hand() -> None:
    box = line().box
    values = np.array([[i / 9, 1 - i / 9] for i in range(10)])
    assert box.share(values) == pytest.approx(1.0)
    assert box.share(values[:0]) == 0.0
    rng = np.random.default_rng(0)
    values = rng.random((40, 2)) * 1.2
    feasible = rng.random(40) < 0.7
    slow = [box.share(values[: i + 1][feasible[: i + 1]]) for i in range(40)]
    assert box.trajectory(values, feasible) == pytest.approx(slow)
    assert box.trajectory(values) == pytest.approx([box.share(values[: i + 1]) for i in range(40)])


def test_with_noise_the_told_front_is_judged_by_its_true_values() -> None:
    noisy = line(noise=lambda params, seed: np.zeros(2))
    true = np.array([[0.5, 0.5], [0.9, 0.9], [0.2, 0.8]])
    told = np.array([[0.5, 0.5], [0.4, 0.4], [0.9, 0.1]])  # the second looks best and is worst
    everything, picked = noisy.shares(told, true, np.array([True, True, True]))
    assert everything == pytest.approx(noisy.box.trajectory(true))
    share = noisy.box.share
    assert picked == pytest.approx([share(true[:1]), share(true[1:2]), share(true[1:])])
    plain = line()
    everything, same = plain.shares(true, true, np.array([True, False, True]))
    assert everything == pytest.approx(same)
    assert everything[1] == everything[0]


# --- best known fronts ---------------------------------------------------------------------------


def small_problem() -> Problem:
    """All 270 architectures of a small space; two invented metrics with interactions."""
    space = SearchSpace(
        name="small",
        family=GPT2,
        embed_dims=(64, 128),
        depths=(2, 3),
        num_heads=(1, 2, 3),
        ffn_ratios=(1, 2, 4),
    )
    choices = ChoiceVectors(Encoder(space))
    rng = np.random.default_rng(3)
    first, second = rng.random((2, 3, 3)), rng.random((2, 3, 3))

    def function(encoded: Encoded) -> FloatArray:
        w = encoded.width_n
        size = (1.0 + w) * (1.0 + encoded.ffn_nl[:, 0]) * encoded.depth_n
        a, f = encoded.attention_nl, encoded.ffn_nl
        return np.column_stack(
            [size + first[w, a[:, 0], f[:, 1]], 50.0 / size + second[w, a[:, 1], f[:, 0]]]
        )

    return Problem("small", ("one", "two"), choices, function)


@pytest.mark.parametrize("is_constrained", [False, True])
def test_the_searched_front_is_the_whole_truth_of_a_small_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_constrained: bool
) -> None:
    problem = small_problem()
    grid = np.array(list(itertools.product(*(range(size) for size in problem.sizes_d))))
    values = problem(grid)

    def feasible(encoded: Encoded) -> Any:
        return problem.function(encoded)[:, 0] <= np.median(values[:, 0])

    mask = feasible(problem.choices.decode(grid)) if is_constrained else np.ones(len(grid), bool)
    monkeypatch.setattr(best_known, "_CHILDREN", 500)
    limit = feasible if is_constrained else None
    box = best_known.searched_box(problem, tmp_path, "v1", limit)
    assert box.share(values[mask]) == pytest.approx(1.0, abs=1e-9)
    if is_constrained:
        assert box.share(values) > 1.05
    # read, not searched again
    monkeypatch.setattr(best_known, "_refined", lambda *_: pytest.fail("searched again"))
    again = best_known.searched_box(problem, tmp_path, "v1", limit)
    assert (again.best, again.source) == (box.best, box.source)
    assert np.array_equal(again.ref_point_m, box.ref_point_m)


def test_a_large_front_is_thinned_without_losing_much(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    values = rng.random((4000, 3))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    values = 1.0 - values  # all non-dominated
    codes = np.arange(4000)[:, None]
    monkeypatch.setattr(best_known, "_MOST", 1000)
    kept, found = best_known._kept(codes, values)
    assert 300 <= len(found) <= 1000
    assert np.array_equal(values[kept[:, 0]], found)
    assert non_dominated_mask(found).all()
    assert set(values.argmin(axis=0)) <= set(kept[:, 0])
