"""Calibrated scores: coverage on errors of any shape, noise that grows with the size, weighted quantiles."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surrogates.additive.scores import Scores, weighted_quantile
from tests.additive_cases import Array

Noise = Callable[[np.random.Generator, Array], Array]


def _bimodal(rng: np.random.Generator, size_n: Array) -> Array:
    """A machine with two clocks, the slower one a third of the time."""
    slow_n = rng.uniform(size=len(size_n)) < 0.33
    noise_n: Array = 0.2 * slow_n + 0.01 * rng.normal(size=len(size_n))
    return noise_n


NOISES: dict[str, Noise] = {
    "normal": lambda rng, size_n: 0.05 * rng.normal(size=len(size_n)),
    "skewed": lambda rng, size_n: 0.1 * rng.exponential(size=len(size_n)),
    "bimodal": _bimodal,
    "heteroscedastic": lambda rng, size_n: 0.05 * size_n**1.5 * rng.normal(size=len(size_n)),
    "heavy": lambda rng, size_n: 0.05 * rng.standard_t(2.5, size=len(size_n)),
}


def measured(name: str, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Predictions, and measurements around them."""
    predicted_n = np.exp(rng.uniform(-1.0, 1.0, n))
    return predicted_n, predicted_n * np.exp(NOISES[name](rng, predicted_n))


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize(("n", "level"), [(100, 0.9), (40, 0.8)])
def test_intervals_cover(name: str, n: int, level: float) -> None:
    """Conformal intervals cover between ``level`` and ``level + 2 / (n + 1)`` in the mean; choosing among three costs a percent at most."""
    rng = np.random.default_rng(0)
    repetitions, fresh = 250, 40
    covered = []
    for _ in range(repetitions):
        predicted_n, values_n = measured(name, n, rng)
        nothing_n = np.zeros(n)
        scores = Scores.fit(values_n[:, None], predicted_n, nothing_n, level)
        asked_n, found_n = measured(name, fresh, rng)
        scale_n = scores.scale(asked_n, np.zeros(fresh))
        low_n, high_n = (asked_n * np.exp(end * scale_n) for end in (scores.low, scores.high))
        assert np.all(low_n > 0)
        covered.append(np.mean((low_n <= found_n) & (found_n <= high_n)))
    # a fit's coverage has the variance of a Beta distribution with n scores, its estimate that of ``fresh`` trials
    one = level * (1.0 - level)
    deviation = math.sqrt((one / (n + 2) + one / fresh) / repetitions)
    found = float(np.mean(covered))
    assert level - 0.01 - 4.0 * deviation < found < level + 2.0 / (n + 1) + 4.0 * deviation


@pytest.mark.parametrize("slope", [-1.0, 0.0, 1.0])
def test_noise_that_changes_with_the_size_is_recovered(slope: float) -> None:
    rng = np.random.default_rng(1)
    predicted_n = np.exp(rng.uniform(-1.0, 1.0, 3000))
    values_n = predicted_n * np.exp(0.05 * predicted_n**slope * rng.normal(size=3000))
    scores = Scores.fit(values_n[:, None], predicted_n, np.zeros(3000), 0.9)
    # the logarithm of a normal variable's size has standard deviation 1.11, that of log size 0.58
    assert scores.slope == pytest.approx(slope, abs=4.0 * 1.11 / (0.577 * math.sqrt(3000)))
    asked_n = np.array([0.5, 1.0, 2.0])
    np.testing.assert_allclose(scores.scale(asked_n, np.zeros(3)), 0.05 * asked_n**slope, rtol=0.12)


def test_a_slope_is_not_made_up_from_few_rows() -> None:
    rng = np.random.default_rng(2)
    slopes = []
    for _ in range(200):
        predicted_n = np.exp(rng.uniform(-1.0, 1.0, 30))
        values_n = predicted_n * np.exp(0.05 * rng.normal(size=30))
        slopes.append(Scores.fit(values_n[:, None], predicted_n, np.zeros(30), 0.9).slope)
    unshrunk = 1.11 / (0.577 * math.sqrt(30))  # what least squares alone would scatter
    assert np.std(slopes) < 0.5 * unshrunk
    assert abs(np.mean(slopes)) < 0.05


def test_own_uncertainty_beyond_the_usual_widens() -> None:
    rng = np.random.default_rng(3)
    predicted_n, values_n = measured("normal", 100, rng)
    scores = Scores.fit(values_n[:, None], predicted_n, np.full(100, 0.02), 0.9)
    scale_n = scores.scale(np.ones(3), np.array([0.01, 0.02, 0.3]))
    assert scale_n[0] == scale_n[1]
    assert scale_n[2] ** 2 - scale_n[1] ** 2 == pytest.approx(0.3**2 - 0.02**2, rel=1e-9)


def test_repeats_of_one_architecture_count_as_one() -> None:
    """One architecture with 1000 wild repeats does not outvote 99 with one each."""
    rng = np.random.default_rng(4)
    values_nr = np.full((100, 1000), np.nan)
    values_nr[:, 0] = np.exp(0.01 * rng.normal(size=100))
    values_nr[0] = np.exp(3.0 * rng.normal(size=1000))
    scores = Scores.fit(values_nr, np.ones(100), np.zeros(100), 0.9)
    interval = math.exp((scores.high - scores.low) * scores.scale(np.ones(1), np.zeros(1))[0])
    assert interval < 1.06


def test_knots_are_the_quantiles_of_the_errors() -> None:
    rng = np.random.default_rng(5)
    values_n = np.exp(_bimodal(rng, np.ones(5000)))
    scores = Scores.fit(values_n[:, None], np.ones(5000), np.zeros(5000), 0.9)
    found = np.exp(scores.knots_q * scores.scale(np.ones(1), np.zeros(1)))
    probabilities = (np.arange(len(found)) + 0.5) / len(found)
    expected = np.quantile(values_n, probabilities, method="inverted_cdf")
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 6)), min_size=1, max_size=20),
    st.lists(st.floats(0.001, 0.999), min_size=1, max_size=5),
)
def test_weighted_quantiles_are_those_of_repeated_values(
    pairs: list[tuple[int, int]], probabilities: list[float]
) -> None:
    values = np.array([value for value, _ in pairs], dtype=np.float64)
    weights = np.array([weight for _, weight in pairs])
    total = weights.sum()
    # at a step itself rounding decides; half a weight beside it does not
    asked = (np.floor(np.array(probabilities) * total) + 0.5) / total
    expected = np.quantile(np.repeat(values, weights), asked, method="inverted_cdf")
    found = weighted_quantile(values, weights.astype(np.float64), asked)
    np.testing.assert_array_equal(found, expected)


def test_too_few_for_the_level_are_refused() -> None:
    for n, is_enough in ((8, False), (9, True)):
        values_n1 = np.exp(0.1 * np.random.default_rng(6).normal(size=(n, 1)))
        if is_enough:
            Scores.fit(values_n1, np.ones(n), np.zeros(n), 0.9)
        else:
            with pytest.raises(ValueError, match="9 or more different architectures"):
                Scores.fit(values_n1, np.ones(n), np.zeros(n), 0.9)


def test_json_round_trip() -> None:
    predicted_n, values_n = measured("skewed", 60, np.random.default_rng(7))
    scores = Scores.fit(values_n[:, None], predicted_n, np.full(60, 0.01), 0.9)
    back = Scores.from_json(json.loads(json.dumps(scores.to_json())))
    for name in ("spread", "slope", "typical", "low", "high", "doubt"):
        assert getattr(back, name) == getattr(scores, name)
    np.testing.assert_allclose(back.knots_q, scores.knots_q, atol=5e-7)


def test_the_deviation_is_that_of_a_mixture() -> None:
    """One error in eight is fifty times the others (another clock): the unit of the scores follows the many, the deviation both."""
    rng = np.random.default_rng(0)
    error_n = 0.001 * rng.normal(size=4000) - 0.05 * (rng.random(4000) < 0.125)
    scores = Scores.fit(np.exp(error_n)[:, None], np.ones(4000), np.zeros(4000), 0.9)
    assert scores.spread * scores.deviation == pytest.approx(np.sqrt(np.mean(error_n**2)), rel=0.05)
