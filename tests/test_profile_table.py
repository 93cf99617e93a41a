"""The table of a profile: its values are the records', it reads back equal, and a benchmark is fitted to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_up import made_up_profile
from small_spaces import small_space

from nas.deploy.device_profile import DeviceProfile
from nas.deploy.profile_table import how_to_read, measurement_tables, write_tables
from search_spaces import SearchSpace, Workload, costs
from surrogates import Benchmark, MeasurementTable, kendall_tau

DECODE, PREFILL = Workload("decode", 1, 16), Workload("prefill", 2, 16)
SPACE = small_space()


@pytest.fixture
def found() -> DeviceProfile:
    return made_up_profile(SPACE, DECODE, 24)


def _read(space: SearchSpace, path: Path) -> MeasurementTable:
    table = MeasurementTable.load(path, bad="skip")
    assert table.space.fingerprint == space.fingerprint
    return table


def test_the_table_holds_the_records_and_reads_back(found: DeviceProfile, tmp_path: Path) -> None:
    (path,) = write_tables(found, SPACE, tmp_path)
    assert path == tmp_path / "table.npz"
    table = MeasurementTable.load(path)
    (device,) = table.devices
    assert device == device.lower()
    assert " " not in device
    assert table.workload == DECODE
    repeats_nr = table.repeats("decode_ms", device)
    assert repeats_nr.shape == (24, 2)
    keys = list(dict.fromkeys(r["key"] for r in found.records))
    for record in found.records:
        assert repeats_nr[keys.index(record["key"]), record["round"]] == record["median_ms"]
    assert found.device_name is not None
    assert found.device_name in table.provenance["source"]
    assert str(path) in how_to_read(SPACE, [path])


def test_a_missing_round_is_nan(found: DeviceProfile) -> None:
    lost = found.records.pop(5)
    table = measurement_tables(found, SPACE)[DECODE]
    repeats_nr = table.repeats("decode_ms", table.devices[0])
    assert np.isnan(repeats_nr).sum() == 1
    keys = list(dict.fromkeys(r["key"] for r in [*found.records, lost]))
    assert np.isnan(repeats_nr[keys.index(lost["key"]), lost["round"]])


def test_each_workload_has_a_table_and_energy_stands_beside_its_latency(
    found: DeviceProfile, tmp_path: Path
) -> None:
    other = made_up_profile(SPACE, PREFILL, 20)
    found.records += other.records
    found.surrogates |= other.surrogates
    joules = [{**r, "joules": 2.0 * r["median_ms"]} for r in found.records]
    found.energy = dict(found.surrogates)
    found.energy_records = [r for r in joules if r["key"] != joules[3]["key"]]
    paths = write_tables(found, SPACE, tmp_path)
    assert [p.name for p in paths] == [
        "table-decode-batch-1-context-16.npz",
        "table-prefill-batch-2-context-16.npz",
    ]
    decode, prefill = (_read(SPACE, path) for path in paths)
    device = decode.devices[0]
    assert len(decode.measured_rows("energy_j", device)) == 23
    assert len(decode.measured_rows("decode_ms", device)) == 24
    np.testing.assert_array_equal(
        np.delete(decode.repeats("energy_j", device), 3, axis=0),
        np.delete(2.0 * decode.repeats("decode_ms", device), 3, axis=0),
    )
    assert set(prefill.columns) == {("prefill_ms", device), ("energy_j", device)}


def test_a_benchmark_reads_it(found: DeviceProfile, tmp_path: Path) -> None:
    (path,) = write_tables(found, SPACE, tmp_path)
    bench = Benchmark(SPACE.name, table=path)
    (device,) = bench.devices
    rng = np.random.default_rng(1)
    asked = [SPACE.sample(rng) for _ in range(30)]
    truth = [1.0 + costs(a, SPACE.family).weight_bytes / 1e4 for a in asked]
    assert kendall_tau(bench.query(asked, device, "decode_ms")["decode_ms"], truth) > 0.9
    said = bench.provenance("decode_ms", device)
    assert found.device_name is not None
    assert found.device_name in said["source"]
    assert said["confidence"] == "fitted to measurements of materialized models"
