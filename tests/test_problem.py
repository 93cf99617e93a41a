"""Problem and simulated searches: bounds, fronts, hypervolumes and attainment against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import optuna
import pytest

from search_spaces import Family, SearchSpace, preset
from surrogates.additive.choices import ChoiceVectors
from surrogates.additive.encoding import Encoded, Encoder
from surrogates.base import FloatArray
from surrogates.dominance import hypervolume, non_dominated_mask, non_dominated_rank
from surrogates.evolution import NSGA2, SEARCHERS, crowding_distance
from surrogates.problem import Problem
from surrogates.simulate import Simulation, simulate

SPACE = SearchSpace(
    "small",
    Family(vocab_size=64, context_length=32, head_dim=8),
    embed_dims=(16, 32, 64),
    depths=(1, 2, 3),
    num_heads=(1, 2, 4),
    ffn_ratios=(1.0, 2.0),
    biases=(False, True),
)


def values(encoded: Encoded) -> FloatArray:
    """A cost and a quality that trade off, with every choice felt."""
    layers = np.where(encoded.attention_nl >= 0, 1.0 + encoded.attention_nl + encoded.ffn_nl, 0.0)
    work = (1.0 + encoded.width_n) * layers.sum(axis=1) + 0.1 * encoded.bias_n
    loss = 10.0 / (1.0 + layers @ np.array([1.0, 0.7, 0.4])) + 1.0 / (1.0 + encoded.width_n)
    return np.column_stack([work, loss - 0.05 * encoded.bias_n])


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem("small", ("work", "loss"), ChoiceVectors(Encoder(SPACE)), values)


@pytest.fixture(scope="module")
def every(problem: Problem) -> FloatArray:
    codes = np.array(list(itertools.product(*(range(size) for size in problem.sizes_d))))
    return problem(codes)


def test_the_best_known_front_is_the_true_one(problem: Problem, every: FloatArray) -> None:
    true = np.unique(every[non_dominated_mask(every)], axis=0)
    found = np.unique(problem.front[1], axis=0)
    np.testing.assert_allclose(found, true)
    np.testing.assert_array_equal(problem(problem.front[0]), problem.front[1])


def test_bounds_and_normalisation(problem: Problem, every: FloatArray) -> None:
    np.testing.assert_allclose(problem.ideal_m, every.min(axis=0))
    assert np.all(problem.ref_point_m <= every.max(axis=0))
    box = problem.normalize(np.stack([problem.ideal_m, problem.ref_point_m]))
    np.testing.assert_allclose(box, [[0, 0], [1, 1]])
    scaled = problem.normalize(problem.front[1])
    inside = scaled[np.all(scaled < 1, axis=1)]
    assert problem.best_hypervolume == pytest.approx(float(hypervolume(inside, [1.0, 1.0])))


def test_trajectories_are_hypervolumes_of_prefixes(problem: Problem) -> None:
    codes = problem.choices.sample(40, np.random.default_rng(1))
    run = problem(codes)
    found = problem.trajectory(run)
    for i in range(len(run)):
        assert found[i] == pytest.approx(problem.hypervolume(run[: i + 1]), abs=1e-12)
    three = Problem(
        "three",
        ("a", "b", "c"),
        problem.choices,
        lambda e: np.hstack([values(e), values(e)[:, :1]]),
    )
    volumes = three.trajectory(three(codes))
    assert volumes[-1] == pytest.approx(three.hypervolume(three(codes)))
    assert np.all(np.diff(volumes) >= 0)


def test_optuna_parameters_and_choice_vectors_are_one_problem(problem: Problem) -> None:
    study = optuna.create_study(
        directions=["minimize"] * 2, sampler=optuna.samplers.RandomSampler(seed=0)
    )
    trial = study.ask(problem.distributions())
    code = problem.codes(trial.params)
    architecture = SPACE.from_params(trial.params)
    np.testing.assert_array_equal(problem(code), values(problem.choices.encoder([architecture])))
    with pytest.raises(ValueError, match="each choice"):
        problem.codes({"embed_dim": 16})
    with pytest.raises(ValueError, match="row 0"):
        problem(problem.sizes_d[None, :])


@pytest.mark.parametrize("name", SEARCHERS)
def test_named_searchers_are_reproducible_and_improve(problem: Problem, name: str) -> None:
    one, same = (simulate(problem, name, 200, range(3)) for _ in range(2))
    np.testing.assert_array_equal(one.values_sbm, same.values_sbm)
    assert one.values_sbm.shape == (3, 200, 2)
    assert not np.array_equal(one.values_sbm[0], one.values_sbm[1])
    share = one.hypervolume_sb
    assert np.all(np.diff(share, axis=1) >= 0)
    assert np.all(share <= 1.0 + 1e-12)
    assert share[:, -1].mean() > share[:, 20].mean()


def test_nsga2_beats_random_search(problem: Problem) -> None:
    wide = SearchSpace(
        "wide", SPACE.family, (16, 32, 64), (6,), (1, 2, 4), (1.0, 2.0, 3.0), (False,)
    )

    def separable(encoded: Encoded) -> FloatArray:
        total = (encoded.attention_nl + encoded.ffn_nl).sum(axis=1)
        first = encoded.attention_nl[:, 0] + encoded.ffn_nl[:, 1] + encoded.width_n
        return np.column_stack([total + encoded.width_n, 30.0 - total - 3.0 * first])

    harder = Problem("wide", ("a", "b"), ChoiceVectors(Encoder(wide)), separable)
    nsga2, random = (
        simulate(harder, name, 600, range(5)).hypervolume_sb[:, -1].mean()
        for name in ("nsga2", "random")
    )
    assert nsga2 > random + 0.02


def test_optuna_samplers_are_taken(problem: Problem) -> None:
    found = simulate(problem, lambda seed: optuna.samplers.RandomSampler(seed=seed), 30, [0, 1])
    assert found.values_sbm.shape == (2, 30, 2)
    assert found.seeds == (0, 1)


def test_bad_requests_are_refused(problem: Problem) -> None:
    with pytest.raises(ValueError, match="did you mean nsga2"):
        simulate(problem, "nsga3", 10, [0])
    with pytest.raises(ValueError, match="one seed or more"):
        simulate(problem, "random", 10, [])
    with pytest.raises(ValueError, match="budget of 1"):
        simulate(problem, "random", 0, [0])


def test_attainment_against_brute_force(problem: Problem) -> None:
    rng = np.random.default_rng(3)
    runs = rng.integers(0, 8, size=(5, 12, 2)).astype(float)
    simulation = Simulation(problem, "made up", tuple(range(5)), runs)
    for share, needed in ((0.2, 1), (0.5, 3), (1.0, 5)):
        surface = simulation.attainment(share)
        for x, y in itertools.product(range(9), repeat=2):
            attained = sum(bool(np.any((run[:, 0] <= x) & (run[:, 1] <= y))) for run in runs)
            below = bool(np.any((surface[:, 0] <= x) & (surface[:, 1] <= y)))
            assert below == (attained >= needed), (share, x, y)
    with pytest.raises(ValueError, match="share"):
        simulation.attainment(0.0)


def test_ranks_and_crowding_against_their_definitions() -> None:
    points = np.random.default_rng(0).integers(0, 9, size=(60, 2)).astype(float)
    ranks = non_dominated_rank(points)
    for i, j in itertools.permutations(range(60), 2):
        if np.all(points[i] <= points[j]) and np.any(points[i] < points[j]):
            assert ranks[i] < ranks[j]
    for i in np.flatnonzero(ranks > 0):
        previous = points[ranks == ranks[i] - 1]
        assert np.any(np.all(previous <= points[i], axis=1) & np.any(previous < points[i], axis=1))
    line = np.array([[0.0, 4.0], [1.0, 3.0], [3.0, 1.0], [4.0, 0.0]])
    np.testing.assert_allclose(crowding_distance(line), [np.inf, 1.5, 1.5, np.inf])


def test_nsga2_keeps_the_best_of_parents_and_children(problem: Problem) -> None:
    searcher = NSGA2(problem.sizes_d, seed=0, population=10)
    seen = []
    for _ in range(5):
        asked = searcher.ask()
        told = problem(asked)
        seen.append(told)
        searcher.tell(asked, told)
    assert searcher.values is not None
    front = np.concatenate(seen)
    best = np.unique(front[non_dominated_mask(front)], axis=0)
    kept = {tuple(v) for v in searcher.values.tolist()}
    if len(best) <= 10:
        assert {tuple(v) for v in best.tolist()} <= kept


def test_large_problems_are_ready_in_seconds() -> None:
    """Thousands of points are on the front of a space of 75 choices; what stands for it is bounded, also with three objectives."""
    choices = ChoiceVectors(Encoder(preset("gpt-l")))

    def three(encoded: Encoded) -> FloatArray:
        heads = np.where(encoded.attention_nl >= 0, encoded.attention_nl, 0)
        ratios = np.where(encoded.ffn_nl >= 0, encoded.ffn_nl, 0)
        weight = np.linspace(1.0, 2.0, heads.shape[1])
        size = (1 + encoded.width_n) * (heads.sum(axis=1) + ratios.sum(axis=1) + encoded.depth_n)
        loss = 400.0 - (heads + ratios) @ weight - 40.0 * encoded.width_n
        return np.column_stack([loss, size, (heads @ weight[::-1]) + encoded.depth_n])

    wide = Problem("l", ("loss", "size", "heads"), choices, three)
    codes, found = wide.front
    assert len(found) <= 500
    assert non_dominated_mask(found).all()
    np.testing.assert_array_equal(wide(codes), found)
    assert 0.0 < wide.best_hypervolume < 1.0
    narrow = Problem("l", ("loss", "size"), choices, lambda encoded: three(encoded)[:, :2])
    assert 10 < len(narrow.front[0]) <= 2000
