"""Quantiles and draws of a prediction: log-normal by default, by its knots where it has some; never negative."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from surrogates import Prediction

MEAN = np.array([1.0, 20.0, 0.3])
STD = np.array([0.1, 30.0, 0.01])
LEVELS = np.array([0.001, 0.05, 0.5, 0.77, 0.999])


def lognormal() -> Prediction:
    return Prediction(MEAN, STD, MEAN / 2.0, MEAN * 2.0)


def shaped() -> Prediction:
    """Two peaks: half the measurements a tenth below, half a fifth above."""
    knots = np.repeat([-1.0, 2.0], 50)
    return Prediction(
        MEAN, STD, MEAN / 2.0, MEAN * 2.0, log_scale_n=np.array([0.1, 0.1, 0.2]), knots_q=knots
    )


def test_quantiles_without_knots_are_those_of_the_log_normal_distribution() -> None:
    """SciPy's, of the same mean and standard deviation."""
    for i, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        shape = np.sqrt(np.log1p((std / mean) ** 2))
        expected = stats.lognorm(shape, scale=mean * np.exp(-0.5 * shape**2))
        assert expected.mean() == pytest.approx(mean)
        assert expected.std() == pytest.approx(std)
        np.testing.assert_allclose(
            lognormal().quantiles(LEVELS)[i], expected.ppf(LEVELS), rtol=1e-9
        )


def test_draws_without_knots_have_the_mean_and_the_deviation() -> None:
    n = 20_000
    many = Prediction(*(np.full(n, v) for v in (2.0, 0.5, 1.0, 3.0)))
    drawn_n = many.sample(np.random.default_rng(0))
    assert drawn_n.mean() == pytest.approx(2.0, abs=4.0 * 0.5 / np.sqrt(n))
    assert drawn_n.std() == pytest.approx(0.5, rel=0.05)
    assert np.corrcoef(drawn_n[1:], drawn_n[:-1])[0, 1] == pytest.approx(0.0, abs=4 / np.sqrt(n))


def test_quantiles_by_knots() -> None:
    found = shaped().quantiles([0.2, 0.5, 0.8])
    scale = np.array([0.1, 0.1, 0.2])
    np.testing.assert_allclose(found[:, 0], MEAN * np.exp(-scale))
    np.testing.assert_allclose(found[:, 1], MEAN * np.exp(0.5 * scale))
    np.testing.assert_allclose(found[:, 2], MEAN * np.exp(2.0 * scale))


def test_beyond_the_outermost_knot_stands_that_knot() -> None:
    found = shaped().quantiles([1e-9, 1e-3, 1 - 1e-3, 1 - 1e-9])
    np.testing.assert_array_equal(found[:, 0], found[:, 1])
    np.testing.assert_array_equal(found[:, 2], found[:, 3])


@pytest.mark.parametrize("make", [lognormal, shaped])
def test_quantiles_rise_and_are_positive(make: type[Prediction]) -> None:
    found = make().quantiles(np.linspace(0.001, 0.999, 99))
    assert found.shape == (3, 99)
    assert np.all(found > 0)
    assert np.all(np.diff(found, axis=1) >= 0)


@pytest.mark.parametrize("make", [lognormal, shaped])
def test_draws_are_reproducible_and_follow_the_quantiles(make: type[Prediction]) -> None:
    prediction, rng = make(), np.random.default_rng(1)
    drawn = np.array([prediction.sample(rng) for _ in range(3000)])
    again = prediction.sample(np.random.default_rng(1))
    np.testing.assert_array_equal(drawn[0], again)
    assert np.all(drawn > 0)
    for p in (0.1, 0.4, 0.75, 0.9):
        share_n = np.mean(drawn <= prediction.quantiles([p + 1e-9])[:, 0], axis=0)
        # two peaks: all quantiles of one are the same number, so the share may jump past p, never fall short
        deviation = np.sqrt(p * (1 - p) / 3000)
        assert np.all(share_n > p - 4 * deviation)
        if make is lognormal:
            assert np.all(share_n < p + 4 * deviation)


@pytest.mark.parametrize("wrong", [0.0, 1.0, -0.1, np.nan, [0.5, 2.0], [[0.5]]])
def test_probabilities_outside_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="probabilities in"):
        lognormal().quantiles(wrong)


def test_nothing_asked_nothing_drawn() -> None:
    empty = Prediction(*(np.zeros(0),) * 4)
    assert empty.quantiles([0.5]).shape == (0, 1)
    assert empty.sample(np.random.default_rng(0)).shape == (0,)
