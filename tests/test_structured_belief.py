"""Beliefs: the posterior by the textbook, the description that the data call for, and fits that forget nothing and need nothing."""

from __future__ import annotations

import numpy as np
import pytest

from nas.searchers.history import telling_rows
from nas.searchers.parameters import ParameterSpace
from nas.searchers.structured import fits
from nas.searchers.structured.belief import Belief, Data, Description, describe, refine
from nas.searchers.structured.features import FeatureMap
from nas.searchers.structured.fits import Fits, Quantity
from nas.searchers.structured.kernel import Layout
from tests.structured_cases import (
    DEEP,
    WIDE,
    Array,
    SlowKernel,
    additive,
    draws,
    history_of,
    of_active_layers,
    some_theta,
)

SPACE = ParameterSpace(DEEP)
FEATURES = FeatureMap(SPACE)


def values_of(X: Array, seed: int = 0) -> Array:
    """A positive function of all columns, with a little noise."""
    rng = np.random.default_rng(seed)
    F = FEATURES(X).own_np
    return np.asarray(
        np.exp(0.3 * F @ np.sin(np.arange(F.shape[1])) + 0.01 * rng.normal(size=len(X)))
    )


@pytest.mark.parametrize("is_gated", [False, True])
@pytest.mark.parametrize("is_log", [False, True])
def test_the_posterior_is_the_textbooks(is_log: bool, is_gated: bool) -> None:
    """Rasmussen & Williams 2006, eq. 2.22-2.24, with a dense solve and the kernel of the double loop."""
    features = FeatureMap(SPACE, num_extra=1)
    X, Z = draws(SPACE, 0, 11), draws(SPACE, 1, 5)
    rng = np.random.default_rng(2)
    extra_x, extra_z = rng.random((11, 1)), rng.random((5, 1))
    y = values_of(X)
    theta = some_theta(Layout(features), 0)
    belief = Belief(features, Data(X, y, extra_x), Description(is_log, is_gated, theta))
    mean, std = belief.predict(belief.columns(Z, extra_z))

    kernel = SlowKernel(features, theta)
    x, z = features(X, is_gated, extra_x), features(Z, is_gated, extra_z)
    target = np.log(y) if is_log else y
    center, size = target.mean(), target.std()
    K = kernel.matrix(x, x) + (kernel.noise + 1e-8) * np.eye(11)
    cross = kernel.matrix(z, x)
    expected = center + size * cross @ np.linalg.solve(K, (target - center) / size)
    variance = kernel.matrix(z, z) - cross @ np.linalg.solve(K, cross.T)
    assert mean == pytest.approx(expected, rel=1e-6)
    assert std == pytest.approx(size * np.sqrt(np.diag(variance)), rel=1e-5)
    assert belief.noise_std == pytest.approx(size * np.sqrt(kernel.noise))
    typical = belief.typical(belief.columns(Z, extra_z))
    assert typical == pytest.approx(np.exp(expected) if is_log else expected, rel=1e-6)


def test_values_far_beyond_the_bulk_are_moved_nearer() -> None:
    """What a broken architecture costs, ten thousand or a million, must not decide what is believed of the others."""
    X = draws(SPACE, 3, 40)
    y = values_of(X) + 5.0
    description = Description(False, False, Layout(FEATURES).median)
    one, other = y.copy(), y.copy()
    one[7], other[7] = 1e4, 1e6
    z = FEATURES(draws(SPACE, 4, 20))
    moments = [Belief(FEATURES, Data(X, v), description).predict(z) for v in (one, other)]
    assert np.array(moments[0]) == pytest.approx(np.array(moments[1]))
    good = y.copy()
    good[7] = -1e4  # unusually good values are what is looked for
    assert Belief(FEATURES, Data(X, good), description).predict(FEATURES(X[7:8]))[0] < -1e3


def test_equal_values_are_believed_and_nothing_breaks() -> None:
    X = draws(SPACE, 5, 12)
    y = np.full(12, 3.0)
    belief = Belief(FEATURES, Data(X, y), describe(FEATURES, Data(X, y)))
    mean, std = belief.predict(belief.columns(draws(SPACE, 6, 9)))
    value = np.exp(mean) if belief.is_log else mean
    assert value == pytest.approx(np.full(9, 3.0))
    assert np.all(np.isfinite(std))
    assert np.all(std > 0.0)


# --- which description ------------------------------------------------------------------------------


def linear(X: Array, seed: int) -> Array:
    """Effects of every value of every parameter, added up; about 0, with a deviation near 1."""
    F = FEATURES(X).own_np
    return np.asarray(F @ np.random.default_rng(seed).normal(size=F.shape[1]))


@pytest.mark.parametrize("seed", range(3))
def test_the_logarithm_is_chosen_where_effects_multiply(seed: int) -> None:
    X = draws(SPACE, 10 + seed, 60)
    total = linear(X, seed)
    assert describe(FEATURES, Data(X, np.exp(total))).is_log
    assert not describe(FEATURES, Data(X, total - total.min() + 0.5)).is_log
    assert not describe(FEATURES, Data(X, np.exp(total)), may_log=False).is_log
    # whatever the unit: a density changes with it, the choice must not
    unit = (1e-3, 1e3, 1e-3)[seed]
    assert describe(FEATURES, Data(X, unit * np.exp(total))).is_log
    assert not describe(FEATURES, Data(X, (total - total.min() + 0.5) / unit)).is_log
    assert not describe(FEATURES, Data(X, np.exp(total) - 1e-3 - np.exp(total).min())).is_log


def test_without_any_structure_the_likelier_density_is_chosen() -> None:
    X = draws(SPACE, 15, 60)
    noise = np.random.default_rng(15).normal(size=60)
    assert describe(FEATURES, Data(X, np.exp(1.5 * noise))).is_log  # log-normal values
    even = np.random.default_rng(16).uniform(0.0, 1.0, 60)
    assert not describe(FEATURES, Data(X, even)).is_log  # whose logarithm leans to one side


@pytest.mark.parametrize("seed", range(3))
def test_the_gate_is_chosen_where_layers_beyond_the_depth_do_nothing(seed: int) -> None:
    X = draws(SPACE, 20 + seed, 50)
    gated = np.array([of_active_layers(SPACE.params(x)) for x in X])
    assert describe(FEATURES, Data(X, gated)).is_gated
    everywhere = FEATURES(X).own_np @ np.random.default_rng(seed).normal(
        size=len(FEATURES.parameter_p)
    )
    assert not describe(FEATURES, Data(X, everywhere)).is_gated


def test_a_learned_gate_gives_inactive_layers_no_effect() -> None:
    X = draws(SPACE, 30, 50)
    y = np.array([of_active_layers(SPACE.params(x)) for x in X])
    belief = Belief(FEATURES, Data(X, y), describe(FEATURES, Data(X, y)))
    names = [p.name for p in SPACE.parameters]
    x = draws(SPACE, 31, 1)
    x[0, names.index("depth")] = 1.0  # depth 2
    other = x.copy()
    other[0, names.index("layer3.heads")] = 2.0 - x[0, names.index("layer3.heads")] or 1.0
    assert not np.array_equal(x, other)
    assert belief.predict(belief.columns(x)) == belief.predict(belief.columns(other))
    truth = of_active_layers(SPACE.params(x[0]))
    assert belief.typical(belief.columns(x))[0] == pytest.approx(truth, rel=0.02)


def test_refining_keeps_the_description_and_raises_the_evidence() -> None:
    X = draws(SPACE, 32, 40)
    y = values_of(X)
    first = describe(FEATURES, Data(X[:20], y[:20]))
    second = refine(FEATURES, Data(X, y), first)
    assert (second.is_log, second.is_gated) == (first.is_log, first.is_gated)
    assert not np.array_equal(second.theta, first.theta)
    below_zero = np.append(y[1:], -0.5)
    assert not refine(FEATURES, Data(X, below_zero), Description(True, False, first.theta)).is_log


def test_predictions_of_an_additive_function_from_few_values() -> None:
    space = ParameterSpace(WIDE)
    features = FeatureMap(space)
    function = additive(WIDE, 0)
    X, Z = draws(space, 33, 60), draws(space, 34, 200)
    y, truth = (np.array([function(space.params(x))[1] for x in points]) for points in (X, Z))
    belief = Belief(features, Data(X, y), describe(features, Data(X, y)))
    mean, std = belief.predict(belief.columns(Z))
    value = np.exp(mean) if belief.is_log else mean
    assert np.mean((value - truth) ** 2) < 0.1 * truth.var()
    spread = value * std if belief.is_log else std
    assert np.mean(np.abs(value - truth) < 2.0 * spread) > 0.85


# --- fits -------------------------------------------------------------------------------------------


def quantity(y: Array) -> Quantity:
    return Quantity("objective 0", y, True, FEATURES, None)


def same(a: Description, b: Description) -> bool:
    return (a.is_log, a.is_gated) == (b.is_log, b.is_gated) and np.array_equal(a.theta, b.theta)


def test_descriptions_are_a_function_of_the_history() -> None:
    X = draws(SPACE, 40, 37)
    Y = values_of(X)[:, None]
    grown = Fits()
    for n in range(2, 38):
        told = np.arange(n)
        last = grown.description(history_of(X[:n], Y[:n]), quantity(Y[:n, 0]), told)
        if n in (5, 16, 37):
            fresh = Fits().description(history_of(X[:n], Y[:n]), quantity(Y[:n, 0]), told)
            assert same(last, fresh)


def test_a_changed_past_is_fitted_anew() -> None:
    X = draws(SPACE, 41, 30)
    Y = values_of(X)[:, None]
    other = Y[::-1].copy()
    remembered = Fits()
    remembered.description(history_of(X, Y), quantity(Y[:, 0]), np.arange(30))
    found = remembered.description(history_of(X, other), quantity(other[:, 0]), np.arange(30))
    fresh = Fits().description(history_of(X, other), quantity(other[:, 0]), np.arange(30))
    assert same(found, fresh)


def test_fits_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []
    for name in ("describe", "refine"):
        real = getattr(fits, name)

        def counting(features, data, *rest, name=name, real=real):  # type: ignore[no-untyped-def]
            calls.append((name, len(data.y_n)))
            return real(features, data, *rest)

        monkeypatch.setattr(fits, name, counting)
    X = draws(SPACE, 42, 60)
    Y = values_of(X)[:, None]
    kept = Fits()
    for n in range(2, 61):
        kept.belief(history_of(X[:n], Y[:n]), quantity(Y[:n, 0]))
    sizes = [n for _, n in calls]
    assert sizes == sorted(set(sizes))
    assert len([n for n in sizes if n > 20]) <= 9  # 15 % apart
    assert 2 <= sum(name == "describe" for name, _ in calls) <= len(calls) // 3
    # a resumed study repeats four fits at most
    calls.clear()
    Fits().belief(history_of(X, Y), quantity(Y[:, 0]))
    assert 1 <= len(calls) <= 4


def test_values_that_were_not_told_are_left_out() -> None:
    X = draws(SPACE, 43, 20)
    Y = values_of(X)[:, None]
    holes = Y[:, 0].copy()
    holes[::4] = np.nan
    kept = np.flatnonzero(np.isfinite(holes))
    z = FEATURES(draws(SPACE, 44, 6))
    found = Fits().belief(history_of(X, Y), quantity(holes)).predict(z)
    expected = Fits().belief(history_of(X[kept], Y[kept]), quantity(holes[kept])).predict(z)
    assert np.array(found) == pytest.approx(np.array(expected))


def test_running_points_count_as_told_what_is_believed_of_them() -> None:
    X, running = draws(SPACE, 45, 20), draws(SPACE, 46, 3)
    Y = values_of(X)[:, None]
    alone = Fits().belief(history_of(X, Y), quantity(Y[:, 0]))
    beside = Fits().belief(history_of(X, Y, running), quantity(Y[:, 0]))
    before, after = alone.predict(alone.columns(running)), beside.predict(beside.columns(running))
    scale = np.ptp(np.log(Y) if alone.is_log else Y)
    assert after[0] == pytest.approx(before[0], abs=0.02 * scale)
    assert np.all(after[1] < 0.5 * before[1])


def test_a_long_study_is_modeled_by_some_of_its_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fits, "_MOST_POINTS", 25)
    X = draws(SPACE, 47, 60)
    Y = np.stack([values_of(X), -values_of(X, 1)], axis=1)
    history = history_of(X, Y)
    seen: list[int] = []
    real = Quantity.belief

    def counting(self: Quantity, X_nd: Array, y_n: Array, description: Description) -> Belief:
        seen.append(len(y_n))
        return real(self, X_nd, y_n, description)

    monkeypatch.setattr(Quantity, "belief", counting)
    belief = Fits().belief(history, quantity(Y[:, 0]))
    assert seen == [25]
    rows = telling_rows(Y, 25)
    z = belief.columns(X[rows])
    near = np.abs(belief.typical(z) - Y[rows, 0]) < 0.1 * np.ptp(Y[:, 0])
    assert near.mean() > 0.9


def test_telling_rows_hold_the_best_and_the_latest() -> None:
    Y = np.random.default_rng(48).random((200, 2))
    rows = telling_rows(Y, 60)
    assert len(rows) == 60
    assert rows.tolist() == sorted(set(rows.tolist()))
    on_front = [i for i in range(200) if not any(np.all(y <= Y[i]) and np.any(y < Y[i]) for y in Y)]
    assert {*on_front, *range(190, 200)} <= {*rows.tolist()}
    assert telling_rows(Y[:30], 60).tolist() == list(range(30))
