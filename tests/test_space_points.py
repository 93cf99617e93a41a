"""SearchSpace: points and architectures are each other's inverse."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import optuna
import pytest
import scipy.sparse
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.search_space_cases import (
    CONDITIONAL,
    PLAIN,
    SPACE,
    SPACES,
    architectures,
    every_point,
    is_active,
    points,
)


@pytest.mark.parametrize("name", SPACES)
@given(data=st.data())
@settings(max_examples=60)
def test_every_point_decodes_and_its_architecture_is_read_back(
    name: str, data: st.DataObject
) -> None:
    space = SPACES[name]
    architecture = space.decode(data.draw(points(space)))
    point = space.encode(architecture)
    assert space.contains(architecture)
    assert point.shape == (space.dim,)
    assert np.all((point > 0.0) & (point < 1.0))
    assert space.decode(point) == architecture
    assert space.from_params(space.to_params(architecture)) == architecture


@given(data=st.data())
@settings(max_examples=60)
def test_inactive_choices_are_canonical(data: st.DataObject) -> None:
    """Two points that differ in inactive slots only decode to one architecture, whose encoding has their first values."""
    architecture = data.draw(architectures(SPACE))
    point = SPACE.encode(architecture)
    noise = data.draw(points(SPACE))
    active = np.array([is_active(c.name, architecture) for c in SPACE.choices])
    first = np.array([0.5 / len(c.values) for c in SPACE.choices])
    assert np.array_equal(point[~active], first[~active])
    assert SPACE.decode(np.where(active, point, noise)) == architecture


@given(data=st.data())
@settings(max_examples=30)
def test_an_active_choice_always_matters(data: st.DataObject) -> None:
    architecture = data.draw(architectures(SPACE))
    params = SPACE.to_params(architecture)
    for choice in SPACE.choices:
        if is_active(choice.name, architecture):
            for value in choice.values:
                changed = SPACE.from_params(params | {choice.name: value})
                assert (changed == architecture) == (value == params[choice.name])


@pytest.mark.parametrize(
    "point",
    [
        np.full(SPACE.dim, 1.0 + 1e-9),
        np.full(SPACE.dim, -1e-9),
        np.full(SPACE.dim, np.nan),
        np.full(SPACE.dim + 1, 0.5),
        np.full((1, SPACE.dim), 0.5),
        np.array(0.5),
    ],
)
def test_what_is_no_point_is_refused(point: np.ndarray) -> None:
    with pytest.raises(ValueError, match="coordinates in"):
        SPACE.decode(point)


def test_params_are_json_scalars_and_wrong_ones_are_refused() -> None:
    architecture = SPACE.sample(np.random.default_rng(3))
    params = SPACE.to_params(architecture)
    assert SPACE.from_params(json.loads(json.dumps(params))) == architecture
    assert list(params) == [choice.name for choice in SPACE.choices] == list(SPACE.to_optuna())
    whole = SPACE.from_params(params | {"embed_dim": np.int64(64), "depth": 2.0, "bias": 1})
    assert (
        whole.to_json()
        == SPACE.from_params(params | {"embed_dim": 64, "depth": 2, "bias": True}).to_json()
    )
    for wrong in (
        {k: v for k, v in params.items() if k != "depth"},
        params | {"width": 3},
        params | {"embed_dim": 33},
        params | {"layer0.ffn_sparsity": "2:5"},
        params | {"layer0.attention": "False"},
    ):
        with pytest.raises(ValueError, match="expected"):
            SPACE.from_params(wrong)


def test_optuna_draws_architectures_of_the_space() -> None:
    space = SPACES["tiny"]
    slots = {
        n: optuna.distributions.CategoricalDistribution(v) for n, v in space.to_optuna().items()
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(5):
        trial = study.ask(slots)  # type: ignore[arg-type]
        assert space.contains(space.from_params(trial.params))


def test_sampling_is_uniform_over_points_and_set_by_the_seed() -> None:
    """Chi-square of the draws against the share of the cube that decodes to each architecture."""
    counts = Counter(every_point(CONDITIONAL))
    total = sum(counts.values())
    rng = np.random.default_rng(0)
    drawn = Counter(CONDITIONAL.sample(rng) for _ in range(3000))
    assert set(drawn) <= set(counts)
    common = [a for a, count in counts.items() if count / total * 3000 >= 5]
    assert len(common) > 50
    expected = [counts[a] / total * 3000 for a in common]
    observed = [drawn[a] for a in common]
    observed.append(3000 - sum(observed))
    expected.append(3000 - sum(expected))
    assert scipy.stats.chisquare(observed, expected).pvalue > 1e-3
    again = [CONDITIONAL.sample(np.random.default_rng(7)) for _ in range(2)]
    assert again[0] == again[1]


def test_each_choice_is_drawn_uniformly_and_by_itself() -> None:
    rng = np.random.default_rng(1)
    sampled = [PLAIN.encode(PLAIN.sample(rng)) for _ in range(2000)]
    deep = np.array(
        [point for point in sampled if point[[c.name for c in PLAIN.choices].index("depth")] > 0.5]
    )
    correlation = np.corrcoef(
        deep[:, [i for i, c in enumerate(PLAIN.choices) if c.name != "depth"]].T
    )
    np.fill_diagonal(correlation, 0.0)
    assert np.abs(correlation).max() < 0.15  # four standard errors of 1000 draws
    for i, choice in enumerate(PLAIN.choices):
        if choice.name != "depth":
            found = Counter(np.round(deep[:, i], 6).tolist())
            assert scipy.stats.chisquare(list(found.values())).pvalue > 1e-4
            assert len(found) == len(choice.values)
