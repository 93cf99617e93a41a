"""AdditiveSurrogate keeps the contract of all surrogates on a sparse and on a dense space, and says no to what it cannot do."""

from __future__ import annotations

import functools
from typing import Any, Literal

import numpy as np
import pytest

from search_spaces import Architecture, SearchSpace, Workload
from surrogates.additive.surrogate import MIN_RECORDS, AdditiveSurrogate
from tests.additive_cases import DECODE, GPT_S, PREFILL, TINY, Array, device_ms, draws
from tests.contracts import SurrogateContract
from tests.surrogate_truths import hidden_truth


@functools.cache
def measurements(space: SearchSpace) -> tuple[list[Architecture], Array]:
    """100 architectures measured with 2 % of noise: on a machine with a bend for tiny, on a sum of counts for gpt-s."""
    architectures = draws(space, 100, 0)
    truth = (
        hidden_truth(architectures)
        if space is TINY
        else device_ms(architectures, space, PREFILL, 1)
    )
    return architectures, truth * np.exp(0.02 * np.random.default_rng(1).normal(size=100))


def make(space: SearchSpace, **settings: Any) -> AdditiveSurrogate:
    return AdditiveSurrogate(space, DECODE if space is TINY else PREFILL, **settings)


@functools.cache
def fitted_to(space: SearchSpace, n: int) -> AdditiveSurrogate:
    architectures, values = measurements(space)
    return make(space).fit(architectures[:n], values[:n])


class Laws(SurrogateContract):
    """What both spaces share; the fit is made once, since no law changes it."""

    space: SearchSpace

    def make(self) -> AdditiveSurrogate:
        return make(self.space)

    def data(self) -> tuple[list[Architecture], Array]:
        return measurements(self.space)

    @pytest.fixture
    def fitted(self, seen: Any) -> AdditiveSurrogate:
        return fitted_to(self.space, len(seen[0]))

    def test_ten_records_are_enough(self, seen: Any, unseen: Any) -> None:
        n = MIN_RECORDS
        guess = self.make().fit(seen[0][:n], seen[1][:n]).predict(unseen[0])
        assert np.all(guess.low_n > 0)
        with pytest.raises(ValueError, match=f"{n} or more different .* got {n - 1}; measure more"):
            self.make().fit(seen[0][: n - 1], seen[1][: n - 1])

    def test_repeated_architectures_do_not_count(self, seen: Any) -> None:
        with pytest.raises(ValueError, match="got 5; measure more"):
            self.make().fit(seen[0][:5] * 4, np.tile(seen[1][:5], 4))

    def test_encoded_architectures_are_taken_as_well(self, fitted: Any, unseen: Any) -> None:
        encoded = fitted.encode(unseen[0])
        self.assert_equal(fitted.predict(encoded), fitted.predict(unseen[0]))
        np.testing.assert_allclose(
            fitted.mean(unseen[0]), fitted.predict(unseen[0]).mean_n, rtol=1e-12
        )

    def test_architectures_of_other_spaces_are_refused(self, fitted: Any) -> None:
        other = GPT_S if self.space is TINY else TINY
        with pytest.raises(ValueError, match="position 0"):
            fitted.predict([other.largest])


class TestTiny(Laws):
    space = TINY

    # half the layers of tiny are dropped or sparse in ten ways: forty records do not tell them all apart
    num_fit = 60


class TestGptS(Laws):
    space = GPT_S


@pytest.mark.parametrize("of", ["mean", "", None])
def test_an_unknown_interval_is_refused(of: Literal["value"]) -> None:
    with pytest.raises(ValueError, match="'measurement' or 'value'"):
        fitted_to(GPT_S, 40).predict([GPT_S.largest], of)


def test_wrong_settings_are_refused() -> None:
    for level in (0.0, 1.0, -1.0, 90.0):
        with pytest.raises(ValueError, match="level"):
            make(GPT_S, level=level)
    architectures, values = measurements(GPT_S)
    with pytest.raises(ValueError, match="19 or more"):
        make(GPT_S, level=0.95).fit(architectures[:15], values[:15])
    with pytest.raises(ValueError, match="neither"):
        make(GPT_S).fit(architectures)


@pytest.mark.parametrize("what", ["middle", "theta", "hyperparameters"])
def test_unfitted_it_knows_nothing(what: str) -> None:
    with pytest.raises(ValueError, match="fit"):
        getattr(make(TINY), what)


def test_default_workload_is_a_prefill_of_the_context() -> None:
    assert AdditiveSurrogate(GPT_S).workload == Workload("prefill", 1, 1024)


def test_the_unit_does_not_matter() -> None:
    """Milliseconds or seconds: the same predictions in the other unit."""
    architectures, values = measurements(GPT_S)
    milli, second = (
        make(GPT_S).fit(architectures[:40], unit * values[:40]).predict(architectures[40:])
        for unit in (1.0, 1e-3)
    )
    for name in ("mean_n", "std_n", "low_n", "high_n"):
        np.testing.assert_allclose(
            1e-3 * getattr(milli, name), getattr(second, name), rtol=1e-3, err_msg=name
        )


def test_reproducible_from_the_seed() -> None:
    """Folds are drawn with the seed: the same intervals for the same one, others for another."""
    architectures, values = measurements(GPT_S)
    one, two, other = (
        make(GPT_S, seed=seed).fit(architectures[:40], values[:40]).predict(architectures[40:])
        for seed in (3, 3, 4)
    )
    for name in ("mean_n", "low_n", "high_n"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert not np.array_equal(one.low_n, other.low_n)


def test_a_fit_leaves_the_global_generator_alone() -> None:
    np.random.seed(5)  # noqa: NPY002
    expected = np.random.uniform(size=3)  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    architectures, values = measurements(GPT_S)
    make(GPT_S).fit(architectures[:20], values[:20])
    np.testing.assert_array_equal(np.random.uniform(size=3), expected)  # noqa: NPY002
