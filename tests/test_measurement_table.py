"""MeasurementTable: what is impossible is refused by row, what is misspelt is corrected."""

from __future__ import annotations

import numpy as np
import pytest

from surrogates.tables import MeasurementTable
from tests.additive_cases import DECODE, GPT_S, TINY, Array
from tests.measurement_table_cases import ASKED, LATENCY, NAN, N, columns, table


def test_values_are_typical_and_in_the_order_given() -> None:
    found = table()
    assert len(found) == N
    assert found.devices == ("gpu_a", "cpu_b")
    repeats = np.asarray(columns()[LATENCY], dtype=np.float64)
    np.testing.assert_array_equal(found.repeats(*LATENCY), repeats)
    np.testing.assert_allclose(found.values(*LATENCY), np.nanmean(repeats, axis=1))
    assert found.repeats("perplexity").shape == (N, 1)
    np.testing.assert_array_equal(found.values("perplexity", "gpu_a"), np.linspace(20, 30, N))
    assert found.measured_rows(*LATENCY).tolist() == list(range(N))
    with pytest.raises(ValueError, match="read-only"):
        found.repeats(*LATENCY)[0] = 1.0


BAD = {
    "NaN": (NAN, "NaN"),
    "negative": (-1.0, "not above 0"),
    "zero": (0.0, "not above 0"),
    "infinite": (np.inf, "infinite"),
    "absurdly much": (5000.0, "1000 times more or less"),
    "absurdly little": (1e-4, "1000 times more or less"),
}


def spoiled(what: str) -> Array:
    values: Array = np.ones((N, 3))
    values[[4, 7]] = BAD[what][0]
    return values


@pytest.mark.parametrize("what", BAD)
def test_impossible_rows_are_refused_by_number(what: str) -> None:
    with pytest.raises(ValueError, match=rf"decode_ms@gpu_a: 2 of {N} rows .*{BAD[what][1]}.*4, 7"):
        table(latency=spoiled(what))


@pytest.mark.parametrize("what", BAD)
def test_or_left_out_and_told(what: str) -> None:
    clean = table()
    found = MeasurementTable(
        TINY, DECODE, clean.encoded, {LATENCY: spoiled(what)}, "float32", {}, "skip"
    )
    assert found.measured_rows(*LATENCY).tolist() == [i for i in range(N) if i not in (4, 7)]
    assert np.isnan(found.values(*LATENCY)[[4, 7]]).all()
    assert len(found.skipped) == 1
    assert "decode_ms@gpu_a" in found.skipped[0]
    assert "rows 4, 7" in found.skipped[0]
    assert BAD[what][1] in found.skipped[0]


def test_unknown_names_propose_near_ones() -> None:
    found = table()
    for metric, device, near in (
        ("decode_ms", "gpu_b", "did you mean .*gpu_a"),
        ("decode_ms", "cpu", "did you mean .*cpu_b"),
        ("decode_msec", "gpu_a", "did you mean .*decode_ms"),
        ("energy", "gpu_a", "did you mean energy_j"),
        ("energy_j", "cpu_b", "decode_ms, perplexity for device cpu_b"),
    ):
        with pytest.raises(ValueError, match=near):
            found.values(metric, device)
    with pytest.raises(ValueError, match="expected a metric"):
        found.values("decode_ms")
    with pytest.raises(ValueError, match="got 'decode'; did you mean decode_ms"):
        MeasurementTable.of(TINY, DECODE, ASKED, {("decode", "gpu_a"): np.ones(N)})


def test_wrong_lengths_no_columns_and_foreign_architectures_are_refused() -> None:
    for wrong in (np.ones(N - 1), np.ones((N + 1, 3)), np.ones((N, 2, 2))):
        with pytest.raises(ValueError, match=f"expected {N} rows in column decode_ms@gpu_a"):
            table(latency=wrong)
    with pytest.raises(ValueError, match="one column or more"):
        MeasurementTable.of(TINY, DECODE, ASKED, {})
    with pytest.raises(ValueError, match="position 0"):
        MeasurementTable.of(GPT_S, DECODE, ASKED, columns())
    with pytest.raises(ValueError, match="'refuse' or 'skip'"):
        MeasurementTable(TINY, DECODE, table().encoded, {LATENCY: np.ones((N, 1))}, bad="drop")  # type: ignore[arg-type]
