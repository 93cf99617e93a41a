"""Values far beyond what can be on a front: all as bad as each other, for the beliefs and for the choice of a scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from nas.searchers.parameters import ParameterSpace
from nas.searchers.structured.belief import Data, describe
from nas.searchers.structured.features import FeatureMap
from nas.searchers.tails import near_reference, without_tail
from tests.structured_cases import WIDE, draws, told
from tests.structured_studies import FUNCTION, REF, auto


def test_a_tail_ends_eight_quartile_ranges_above_the_median() -> None:
    y = np.array([-1e9, 1.0, 2.0, 3.0, 4.0, 5.0, 1e3, math.e])
    low, middle, high = np.percentile(y, [25, 50, 75])
    expected = [min(v, middle + 8.0 * (high - low)) for v in y]
    assert without_tail(y).tolist() == expected
    assert expected[6] < 1e3
    assert without_tail(np.full(5, 2.0)).tolist() == [2.0] * 5


def test_beyond_the_reference_as_far_as_the_best_lies_within() -> None:
    y = np.array([6.0, 9.0, 13.9, 14.1, 1e6, math.nan])
    assert near_reference(y, 10.0) == pytest.approx(
        [6.0, 9.0, 13.9, 14.0, 14.0, math.nan], nan_ok=True
    )
    assert near_reference(y, 5.0) == pytest.approx(y, nan_ok=True)  # none is within: all are left
    assert np.isnan(near_reference(np.array([math.nan]), 1.0)).all()


@pytest.mark.parametrize("power", [3, 9, 200])
def test_the_choice_of_a_scale_does_not_depend_on_how_bad_a_bad_value_is(power: int) -> None:
    features = FeatureMap(ParameterSpace(WIDE))
    X = draws(ParameterSpace(WIDE), 0, 40)
    effects = np.random.default_rng(0).normal(size=features(X, False).own_np.shape[1])
    y = np.exp(
        1.0 + 0.3 * features(X, False).own_np @ effects
    )  # a sum on the scale of the logarithm
    described = []
    for worst in (1e3, 10.0**power):
        y[5] = worst
        described.append(describe(features, Data(X, y.copy())))
    assert described[0].is_log
    assert described[1].is_log
    assert described[0].theta == pytest.approx(described[1].theta)


def test_how_far_beyond_the_reference_a_value_lies_changes_no_proposal() -> None:
    def with_bad_half(factor: float) -> list[dict[str, Any]]:
        def function(params: Mapping[str, Any]) -> list[float]:
            error, cost = FUNCTION(params)
            bad = params["layer0.heads"] == 4
            return [REF[0] + factor * (1.0 + abs(error)) * 1e3 if bad else error, cost]

        return [t.params for t in told(auto(1, ref_point=REF), WIDE, function, 18).trials]

    assert with_bad_half(1.0) == with_bad_half(50.0)
