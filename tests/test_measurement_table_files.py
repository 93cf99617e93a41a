"""A MeasurementTable as a file: what is saved is loaded, what is damaged or no architecture is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search_spaces import Workload
from surrogates.storage import read_archive, write_archive
from surrogates.tables import MeasurementTable
from tests.additive_cases import TINY
from tests.measurement_table_cases import ASKED, columns, table


def assert_equal(a: MeasurementTable, b: MeasurementTable) -> None:
    for name in ("space", "workload", "dtype", "provenance", "devices", "skipped"):
        assert getattr(a, name) == getattr(b, name), name
    for name in a.encoded.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(a.encoded, name), getattr(b.encoded, name))
    assert list(a.columns) == list(b.columns)
    for key, values in a.columns.items():
        np.testing.assert_array_equal(values, b.columns[key])


def test_save_and_load(tmp_path: Path) -> None:
    table().save(tmp_path / "t.npz")
    assert_equal(MeasurementTable.load(tmp_path / "t.npz"), table())
    assert [p.name for p in tmp_path.iterdir()] == ["t.npz"]


def test_a_file_with_impossible_rows(tmp_path: Path) -> None:
    table().save(tmp_path / "t.npz")
    meta, arrays = read_archive(tmp_path / "t.npz", "measurement-table", 1)
    arrays["perplexity@"] = arrays["perplexity@"].copy()
    arrays["perplexity@"][5] = -3.0
    write_archive(tmp_path / "t.npz", "measurement-table", 1, meta, arrays)
    with pytest.raises(ValueError, match=r"perplexity@: 1 of 12 rows are not above 0 \(rows 5\)"):
        MeasurementTable.load(tmp_path / "t.npz")
    found = MeasurementTable.load(tmp_path / "t.npz", bad="skip")
    assert 5 not in found.measured_rows("perplexity")


def test_the_workload_is_kept(tmp_path: Path) -> None:
    workload = Workload("prefill", 3, 77)
    MeasurementTable.of(TINY, workload, ASKED, columns()).save(tmp_path / "t.npz")
    assert MeasurementTable.load(tmp_path / "t.npz").workload == workload


CHANGES: dict[str, tuple[str, Any, str]] = {
    "width below": ("width_n", -1, "row 3"),
    "width above": ("width_n", 3, "row 3"),
    "depth": ("depth_n", 9, "row 3"),
    "bias": ("bias_n", 1, "row 3"),
    "attention": ("attention_nl", 99, "row 3"),
    "ffn": ("ffn_nl", -2, "row 3"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_numbers_that_are_no_architecture_name_their_row(tmp_path: Path, what: str) -> None:
    table().save(tmp_path / "t.npz")
    meta, arrays = read_archive(tmp_path / "t.npz", "measurement-table", 1)
    name, value, message = CHANGES[what]
    arrays[name] = arrays[name].copy()
    arrays[name][3] = value
    write_archive(tmp_path / "t.npz", "measurement-table", 1, meta, arrays)
    with pytest.raises(ValueError, match=message):
        MeasurementTable.load(tmp_path / "t.npz")


@pytest.mark.parametrize("what", ["ffn_nl", "width_n", "space", "ffn_parts"])
def test_missing_parts_of_the_file_are_named(tmp_path: Path, what: str) -> None:
    table().save(tmp_path / "t.npz")
    meta, arrays = read_archive(tmp_path / "t.npz", "measurement-table", 1)
    (arrays if what.endswith(("_nl", "_n")) else meta).pop(what)
    write_archive(tmp_path / "t.npz", "measurement-table", 1, meta, arrays)
    with pytest.raises(ValueError, match=what):
        MeasurementTable.load(tmp_path / "t.npz")


def test_foreign_and_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    with pytest.raises(FileNotFoundError):
        MeasurementTable.load(path)
    table().save(path)
    whole = path.read_bytes()
    middle = len(whole) // 2
    for content in (b"", b"hello", whole[:middle], b"PK\x03\x04 no"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged or foreign"):
            MeasurementTable.load(path)
    with open(path, "wb") as handle:
        np.save(handle, np.zeros(3))
    with pytest.raises(ValueError, match="damaged or foreign"):
        MeasurementTable.load(path)
    write_archive(path, "another-kind", 1, {}, {})
    with pytest.raises(ValueError, match="another-kind"):
        MeasurementTable.load(path)
