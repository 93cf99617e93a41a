"""The k points of most hypervolume: against every subset, against plain greedy selection, and the front's own methods."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nas.objectives import Evaluation
from nas.pareto import ParetoFront, hypervolume, select_subset
from nas.pareto import subset as subset_module
from search_spaces import Architecture, LayerConfig

Points = npt.NDArray[np.float64]


def best_volume(Y: Points, ref: Points, k: int) -> float:
    return max(
        hypervolume(Y[list(s)], ref) for s in itertools.combinations(range(len(Y)), min(k, len(Y)))
    )


def plain_greedy(Y: Points, ref: Points, k: int) -> list[int]:
    """Every gain computed anew for every choice; of equal gains the first row."""
    chosen: list[int] = []
    while len(chosen) < k:
        rest = [i for i in range(len(Y)) if i not in chosen]
        volumes = [float(hypervolume(Y[[*chosen, i]], ref)) for i in rest]
        chosen.append(rest[int(np.argmax(volumes))])
    return sorted(chosen)


@given(
    hnp.arrays(
        np.float64, st.tuples(st.integers(1, 9), st.integers(1, 3)), elements=st.integers(0, 7)
    ),
    st.integers(1, 5),
)
def test_no_subset_has_more(Y: Points, k: int) -> None:
    """Dominated, repeated and useless points among them; integers, so that volumes are equal to the last digit."""
    ref = np.full(Y.shape[1], 6.0)
    found = select_subset(Y, ref, k)
    assert found.is_exact
    assert len(found.rows) == len(set(found.rows)) == min(k, len(Y))
    assert list(found.rows) == sorted(found.rows)
    assert found.hypervolume == hypervolume(Y[list(found.rows)], ref) == best_volume(Y, ref, k)


@pytest.mark.parametrize("k", [1, 2, 3, 7, 20])
def test_two_objectives_by_a_table_of_every_pair(k: int) -> None:
    """The same recurrence without the monotone search: every last point after every other."""
    rng = np.random.default_rng(k)
    x = np.sort(rng.choice(1000, 60, replace=False)).astype(float)
    y = np.sort(rng.choice(1000, 60, replace=False))[::-1].astype(float)
    ref, Y = np.array([1003.0, 1001.0]), np.column_stack([x, y])
    best = (ref[0] - x) * (ref[1] - y)
    for _ in range(k - 1):
        after = best[:, None] + (ref[0] - x)[None] * (y[:, None] - y[None])
        after[np.tril_indices(60)] = 0.0
        best = np.maximum(best, after.max(axis=0))
    order = rng.permutation(60)
    found = select_subset(Y[order], ref, k)
    assert found.hypervolume == best.max()
    assert found.is_exact


@pytest.mark.parametrize("m", [3, 4])
def test_lazy_greedy_equals_plain_greedy_and_keeps_its_promise(
    m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subset_module, "_MOST_SUBSETS", 0)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        Y, ref = rng.integers(0, 9, size=(14, m)).astype(float), np.full(m, 9.0)
        Y = np.unique(Y, axis=0)
        Y = Y[[not np.any(np.all(y >= Y, axis=1) & np.any(y > Y, axis=1)) for y in Y]]
        for k in (1, 2, 4):
            found = select_subset(Y, ref, k)
            assert list(found.rows) == plain_greedy(Y, ref, min(k, len(Y)))
            assert found.hypervolume >= (1 - 1 / math.e) * best_volume(Y, ref, k)
            assert found.is_exact == (k == 1 or k >= len(Y))


def test_enumeration_beats_greedy_where_greedy_errs() -> None:
    """The largest box first, and then both others add little; without it they span more."""
    Y = np.array([[2.0, 2.0, 0.0], [0.0, 4.0, 0.0], [4.0, 0.0, 0.0]])
    ref = np.array([7.0, 7.0, 1.0])
    assert plain_greedy(Y, ref, 2) != [1, 2]
    assert best_volume(Y, ref, 2) == hypervolume(Y[[1, 2]], ref)
    assert select_subset(Y, ref, 2).rows == (1, 2)


def test_useless_points_come_last_and_equal_choices_are_the_earlier() -> None:
    Y = [[5.0, 0.5], [1.0, 1.0], [1.0, 1.0], [2.0, 2.0], [0.5, 9.0]]
    assert [select_subset(Y, [3.0, 3.0], k).rows for k in (1, 2, 3, 9)] == [
        (1,),
        (0, 1),
        (0, 1, 2),
        (0, 1, 2, 3, 4),
    ]
    mirrored = [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    assert select_subset(mirrored, [2.0] * 3, 1).rows == (0,)
    assert select_subset(mirrored[::-1], [2.0] * 3, 1).rows == (0,)
    assert select_subset([], [1.0, 1.0], 3).rows == ()


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_a_wrong_number_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="expected to choose k of 1 or more points"):
        select_subset([[1.0, 1.0]], [2.0, 2.0], k)


# --- of a front


def evaluation(i: int, **values: float) -> Evaluation:
    return Evaluation(Architecture(64 + 8 * i, (LayerConfig(2, 1.0),)), values)


def front_of(rows: list[tuple[float, float]], ref: tuple[float, float] | None) -> ParetoFront:
    members = [
        evaluation(i, perplexity=a, decode_ms=b, params=100 - i) for i, (a, b) in enumerate(rows)
    ]
    return ParetoFront(members, ["perplexity", "decode_ms"], ref)


def test_a_front_picks_and_keeps_its_order() -> None:
    front = front_of([(1.0, 9.0), (9.0, 1.0), (5.0, 5.0), (4.0, 5.5)], (10.0, 10.0))
    picked = front.pick(2)
    volumes = {
        s: hypervolume(front.values_nm[list(s)], (10.0, 10.0))
        for s in itertools.combinations(range(4), 2)
    }
    assert picked.hypervolume == max(volumes.values())
    assert picked.evaluations == tuple(front.evaluations[i] for i in front.select(2).rows)
    assert picked.objectives == front.objectives
    assert front.pick(9) == front
    with pytest.raises(ValueError, match="1 or more"):
        front.pick(0)
    assert len(front_of([], (1.0, 1.0)).pick(2)) == 0


def test_without_a_reference_point_the_ends_count_too() -> None:
    front = front_of([(1.0, 9.0), (9.0, 1.0), (5.0, 5.0)], None)
    assert len(front.pick(3)) == 3
    assert front.select(3).hypervolume > front.select(2).hypervolume
    assert len(front_of([(1.0, 1.0)], None).pick(1)) == 1


def test_a_front_within_bounds() -> None:
    front = front_of([(1.0, 9.0), (9.0, 1.0), (5.0, 5.0)], (10.0, 10.0))
    assert front.within({}) == front
    for name in ("decode_ms", "decode_ms[batch=1,context=128]", " decode_ms "):
        kept = front.within({name: 5.0})
        assert [e.value("perplexity") for e in kept.evaluations] == [9.0, 5.0]
        assert kept.ref_point == (10.0, 10.0)
    assert [e.value("params") for e in front.within({"params": 99}).evaluations] == [99, 98]
    assert len(front.within({"decode_ms": 5.0, "perplexity": 5.0})) == 1
    assert len(front_of([], None).within({"decode_ms": 1.0})) == 0


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"latency": 1.0}, "did you mean decode_ms.*this front has perplexity, decode_ms"),
        ({"prefill_ms": 1.0}, "expected one of what this front has .* got 'prefill_ms'; did you"),
        ({"decode_ms[batch=2]": 1.0}, "expected one of what this front has"),
        ({"decode_ms": math.inf}, "expected a finite bound"),
        ({"decode_ms": 2, "decode_ms[batch=1,context=128]": 3}, "one bound for decode_ms"),
        ({"decode_ms": 0.5}, r"got none; the least decode_ms\[.*\] there is is 1$"),
        (
            {"decode_ms": 1.5, "perplexity": 2.0},
            "and 9 among those that keep to the other bounds; the least perplexity there is is 1,",
        ),
        ({"decode_ms": 0.1, "perplexity": 2.0}, "there is is 1, and no member keeps to the other"),
    ],
)
def test_wrong_bounds_are_refused(bounds: dict[str, float], message: str) -> None:
    front = front_of([(1.0, 9.0), (9.0, 1.0), (5.0, 5.0)], (10.0, 10.0))
    with pytest.raises(ValueError, match=message):
        front.within(bounds)


def test_a_metric_of_two_workloads_needs_its_full_spelling() -> None:
    names = ["decode_ms[batch=1,context=128]", "decode_ms[batch=8,context=128]"]
    front = ParetoFront([evaluation(0, **{names[0]: 1.0, names[1]: 2.0})], names)
    with pytest.raises(ValueError, match="expected the full spelling of one of decode_ms"):
        front.within({"decode_ms": 3.0})
    assert len(front.within({names[1]: 2.0})) == 1
    assert len(front.within({"decode_ms[context=128,batch=8]": 2.0})) == 1


def test_the_knee_leaves_out_what_is_beyond_the_reference_point() -> None:
    rows = [(1.0, 9.0), (2.0, 4.0), (9.0, 2.0), (60.0, 0.1)]
    assert front_of(rows, (10.0, 10.0)).knee.value("perplexity") == 2.0
    assert front_of(rows, None).knee.value("perplexity") == 9.0
    assert front_of(rows, (0.5, 0.5)).knee.value("perplexity") == 9.0  # all are beyond: all count
    with pytest.raises(ValueError, match="one point or more, got none"):
        _ = front_of([], None).knee
