"""Files in HW-GPT-Bench's layout: every scale, its batch and its units; what is outside is refused by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search_spaces import preset
from surrogates.additive.encoding import Encoder
from surrogates.hw_gpt_bench import (
    encode_table,
    is_hw_gpt_bench,
    profiled_flops,
    read_hw_gpt_bench,
    table_rows,
)
from surrogates.tables import MeasurementTable
from tests.additive_cases import GPT_S, HW_GPT_BENCH, draws, published, published_arch
from tests.small_hw_gpt_bench import N, rows_of, write


@pytest.mark.parametrize(
    ("name", "batch"), [("gpt-s", 8), ("gpt-m", 4), ("gpt-l", 1), ("gpt-l-wide", 1)]
)
def test_every_scale_is_read(tmp_path: Path, name: str, batch: int) -> None:
    space = preset(name)
    asked = write(tmp_path / "f.npz", space)
    assert is_hw_gpt_bench(tmp_path / "f.npz")
    table = MeasurementTable.load(tmp_path / "f.npz")
    assert table.space == space
    assert (table.workload.phase, table.workload.batch, table.workload.context) == (
        "prefill",
        batch,
        1024,
    )
    assert Encoder(space).decode(table.encoded) == asked
    np.testing.assert_allclose(table.values("prefill_ms", "a100"), np.linspace(10, 20, N))
    np.testing.assert_allclose(table.values("energy_j", "a100"), 3.6 * np.linspace(10, 20, N) / 1e4)
    np.testing.assert_allclose(
        table.values("energy_j", "cpu_amd_7502"), 3600 * np.linspace(1, 2, N)
    )
    np.testing.assert_allclose(
        table.values("peak_memory_bytes", "a100"), 1e6 * np.linspace(500, 900, N)
    )
    np.testing.assert_allclose(table.values("perplexity"), np.linspace(20, 30, N))
    np.testing.assert_allclose(table.values("accuracy"), np.linspace(0.3, 0.4, N))


@pytest.mark.parametrize("name", ["gpt-s", "gpt-m", "gpt-l"])
def test_rows_round_trip(name: str) -> None:
    space = preset(name)
    rows = rows_of([space.smallest, space.largest, *draws(space, 20, 1)], space.depths[-1])
    np.testing.assert_array_equal(table_rows(encode_table(rows, space), space), rows)


OUTSIDE = {
    "width": (0, 200),
    "depth": (1, 9),
    "bias": (2, 2),
    "ratio": (3, 7),
    "heads": (3 + 12, 5),
    "a layer missing": (3, -1),
    "padding with a value": (3 + 11, 2),
}


@pytest.mark.parametrize("what", OUTSIDE)
def test_a_row_outside_the_space_is_named(tmp_path: Path, what: str) -> None:
    asked = [a for a in draws(GPT_S, 40, 0) if len(a.layers) < 12][:N]
    rows = rows_of(asked, 12)
    place, value = OUTSIDE[what]
    rows[6, place] = value
    write(tmp_path / "f.npz", GPT_S, arch=rows)
    with pytest.raises(ValueError, match=r"1 outside it \(rows 6\)"):
        MeasurementTable.load(tmp_path / "f.npz")
    with pytest.raises(ValueError, match="in row 6"):
        encode_table(rows, GPT_S)


CHANGED: dict[str, tuple[dict[str, Any], str]] = {
    "short column": ({"ppl": np.ones(N - 1)}, f"expected {N} rows in column perplexity@"),
    "no columns of l layers": ({"arch": np.ones((N, 8), dtype=int)}, "3 \\+ 2 l columns"),
    "five layers": ({"arch": np.ones((N, 13), dtype=int)}, "12, 24 or 36 layers"),
    "no whole numbers": ({"arch": np.full((N, 27), 0.5)}, "whole numbers"),
    "words": ({"ppl": np.array(["a"] * N)}, "numbers in ppl"),
    "deviation missing": ({"encpu_cpu_amd_7502": np.ones((N, 1))}, "mean and deviation"),
    "negative": ({"mem_a100": np.linspace(-1, 9, N)}, r"peak_memory_bytes@a100.*rows 0, 1"),
    "pickle": ({"ppl": np.array([{}] * N, dtype=object)}, "damaged"),
    "pickled arch": ({"arch": np.array([{}] * N, dtype=object)}, "damaged"),
}


@pytest.mark.parametrize("what", CHANGED)
def test_impossible_arrays_are_refused(tmp_path: Path, what: str) -> None:
    changed, message = CHANGED[what]
    write(tmp_path / "f.npz", GPT_S, **changed)
    with pytest.raises(ValueError, match=message):
        MeasurementTable.load(tmp_path / "f.npz")


def test_arrays_of_no_column_are_left_out_aloud(tmp_path: Path) -> None:
    write(tmp_path / "f.npz", GPT_S, lat=np.ones(N), names=np.array(["a"] * N))
    found = MeasurementTable.load(tmp_path / "f.npz")
    assert [line.split(":")[0] for line in found.skipped] == ["array lat", "array names"]


def test_a_bad_repeat_costs_itself_only(tmp_path: Path) -> None:
    repeats = np.full((N, 5), 8.0)
    repeats[2, 1], repeats[3, 0], repeats[4] = 0.0, np.inf, -1.0
    write(tmp_path / "f.npz", GPT_S, lat_a100=repeats)
    with pytest.raises(ValueError, match="rows 2, 3, 4"):
        MeasurementTable.load(tmp_path / "f.npz")
    found = MeasurementTable.load(tmp_path / "f.npz", bad="skip")
    column = found.repeats("prefill_ms", "a100")
    assert np.isnan(column[2]).tolist() == [False, True, False, False, False]
    assert np.isnan(column[3]).tolist() == [True, False, False, False, False]
    assert 4 not in found.measured_rows("prefill_ms", "a100")
    assert "2 repeats of 2 rows" in found.skipped[0]


def test_bad_rows_can_be_skipped(tmp_path: Path) -> None:
    memory = np.linspace(500.0, 900.0, N)
    memory[4] = 1e9
    write(tmp_path / "f.npz", GPT_S, mem_a100=memory)
    with pytest.raises(ValueError, match="rows 4"):
        MeasurementTable.load(tmp_path / "f.npz")
    table = MeasurementTable.load(tmp_path / "f.npz", bad="skip")
    assert 4 not in table.measured_rows("peak_memory_bytes", "a100")
    assert "rows 4" in table.skipped[0]


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    with pytest.raises(FileNotFoundError):
        is_hw_gpt_bench(path)
    with pytest.raises(FileNotFoundError):
        read_hw_gpt_bench(path)
    write(path, GPT_S, arch=None)
    assert is_hw_gpt_bench(path)  # one that lacks an array, which is then named
    with pytest.raises(ValueError, match="array arch"):
        read_hw_gpt_bench(path)
    write(path, GPT_S)
    path.write_bytes(path.read_bytes()[:-200])
    assert not is_hw_gpt_bench(path)
    with pytest.raises(ValueError, match="damaged"):
        read_hw_gpt_bench(path)


def test_flops_are_those_the_authors_profiled() -> None:
    """To a tenth of a percent: they count some element-wise operations too."""
    table = published()
    with np.load(HW_GPT_BENCH, allow_pickle=False) as archive:
        raw_n = archive["flops_raw"].astype(np.float64)
    np.testing.assert_allclose(profiled_flops(published_arch(), 8), raw_n, rtol=1e-3)
    assert len(table) == len(raw_n) == 6000
