"""One typical value from repeats, and what is refused before a fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import trim_mean

from surrogates.measured import check_values, typical_values

NAN = float("nan")


@given(
    st.lists(
        st.lists(st.one_of(st.floats(0.1, 1e6), st.just(NAN)), min_size=13, max_size=13),
        min_size=1,
        max_size=4,
    )
)
def test_typical_value_is_the_trimmed_mean_of_what_is_there(rows: list[list[float]]) -> None:
    """SciPy's, row by row, absent repeats left out."""
    found = typical_values(np.array(rows))
    for value, row in zip(found, rows, strict=True):
        present = [x for x in row if not np.isnan(x)]
        if present:
            assert value == pytest.approx(trim_mean(present, 0.1), rel=1e-9)
        else:
            assert np.isnan(value)


@pytest.mark.parametrize("num", [10, 50])
def test_one_wild_repeat_is_shrugged_off(num: int) -> None:
    clean = 5.0 + 0.01 * np.random.default_rng(0).normal(size=(1, num))
    wild = clean.copy()
    wild[0, 3] *= 1000.0
    assert typical_values(wild)[0] == pytest.approx(typical_values(clean)[0], rel=0.005)


def test_two_clocks_are_told_by_how_often_each_runs() -> None:
    """A median would say 1 for both."""
    rows = np.array([[1.0] * 8 + [2.0] * 2, [1.0] * 6 + [2.0] * 4])
    np.testing.assert_allclose(typical_values(rows), [1.0 + 1 / 8, 1.0 + 3 / 8])


def test_values_come_from_the_repeats_unless_given() -> None:
    repeats = np.array([[1.0, NAN, 3.0], [2.0, 2.0, NAN]])
    values, singles = check_values(2, None, repeats)
    np.testing.assert_allclose(values, [2.0, 2.0])
    np.testing.assert_array_equal(singles, repeats)
    values, singles = check_values(2, [7.0, 8.0], repeats)
    np.testing.assert_array_equal(values, [7.0, 8.0])
    values, singles = check_values(2, [7.0, 8.0], None)
    assert singles is None


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.inf])
def test_an_impossible_repeat_is_named(wrong: float) -> None:
    repeats = np.ones((4, 3))
    repeats[2, 1] = wrong
    with pytest.raises(ValueError, match=f"repeats_nr finite and above 0, got {wrong} in record 2"):
        check_values(4, None, repeats)


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.inf, NAN])
def test_an_impossible_value_is_named(wrong: float) -> None:
    with pytest.raises(ValueError, match=f"values_n finite and above 0, got {wrong} in record 1"):
        check_values(3, [1.0, wrong, 2.0], None)


def test_missing_rows_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="neither"):
        check_values(3, None, None)
    with pytest.raises(ValueError, match="got none in record 1"):
        check_values(2, None, [[1.0], [NAN]])
    for shape in ((3, 1), (2,)):
        with pytest.raises(ValueError, match=r"repeats_nr of shape \(2, r\)"):
            check_values(2, None, np.ones(shape))
    with pytest.raises(ValueError, match=r"values_n of shape \(2,\)"):
        check_values(2, np.ones(3), None)
