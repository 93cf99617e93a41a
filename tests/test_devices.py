"""The table of devices and their JSON: names, sources, and figures against other tables and arithmetic."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from experiments.kernels.cards import CARDS, ISSUE_SLOTS
from surrogates import DeviceSpec, device, devices

HW_GPT_BENCH = [
    "a100",
    "a40",
    "h100",
    "rtx2080",
    "rtx3080",
    "a6000",
    "v100",
    "P100",
    "cpu_xeon_silver",
    "cpu_xeon_gold",
    "cpu_amd_7502",
    "cpu_amd_7513",
    "cpu_amd_7452",
]
ADDED = ["a100-80", "h200", "b200", "rtx4090", "sn40l", "cpu"]
OPTIONAL = (
    *("cache_bytes", "cache_bandwidth_bytes_s", "power_w", "memory_bytes", "num_units"),
    *("on_chip_bytes", "instructions_s"),
)


def test_the_table_has_hw_gpt_bench_as_it_spells_it_and_the_added_devices() -> None:
    assert list(devices()) == HW_GPT_BENCH + ADDED


@pytest.mark.parametrize("name", HW_GPT_BENCH + ADDED)
def test_every_figure_has_a_source_and_no_source_is_without_figure(name: str) -> None:
    spec = device(name)
    needed = {"peak_flops", "bandwidth_bytes_s", "op_overhead_s"}
    known = needed | {field for field in OPTIONAL if getattr(spec, field) is not None}
    assert set(spec.source) == known
    assert all(len(text) > 5 for text in spec.source.values())


@pytest.mark.parametrize("name", HW_GPT_BENCH + ADDED)
def test_json_round_trip_is_exact(name: str) -> None:
    spec = device(name)
    again = DeviceSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert hash(again) == hash(spec)
    assert again.to_json() == spec.to_json()
    assert {k: type(v) for k, v in again.to_json().items()} == {
        k: type(v) for k, v in spec.to_json().items()
    }


def test_figures_that_are_not_known_may_be_left_out_of_json() -> None:
    fields = {k: v for k, v in device("cpu").to_json().items() if v is not None}
    assert DeviceSpec.from_json(fields) == device("cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "name of a device"),
        ({"peak_flops": {}}, "peak_flops for dtypes"),
        ({"peak_flops": {"int4": 1e9}}, "peak_flops for dtypes"),
        ({"peak_flops": [1e9]}, "peak_flops by name"),
        ({"peak_flops": {"float32": 0.0}}, "peak_flops of float32 above 0"),
        ({"peak_flops": {"float32": float("nan")}}, "above 0 and finite"),
        ({"bandwidth_bytes_s": None}, "bandwidth_bytes_s"),
        ({"bandwidth_bytes_s": "20e9"}, "to be a number"),
        ({"bandwidth_bytes_s": True}, "to be a number"),
        ({"bandwidth_bytes_s": float("inf")}, "above 0 and finite"),
        ({"num_units": 2.0}, "whole number"),
        ({"op_overhead_s": -1e-6}, "above 0"),
        ({"power_w": 90.0}, "a source for power_w"),
        ({"source": {}}, "a source for peak_flops"),
        ({"source": None}, "source by name"),
        ({"cache_bytes": None}, "sources for the figures"),
        ({"clock": 3e9}, "expected a device with"),
    ],
)
def test_a_damaged_device_is_refused(change: dict[str, object], message: str) -> None:
    fields = device("cpu").to_json() | change
    with pytest.raises(ValueError, match=message):
        DeviceSpec.from_json(fields)


def test_a_field_that_is_needed_and_no_mapping_are_refused() -> None:
    fields = device("cpu").to_json()
    del fields["op_overhead_s"]
    for damaged in (fields, None, [], "cpu"):
        with pytest.raises(ValueError, match="expected a device with"):
            DeviceSpec.from_json(damaged)  # type: ignore[arg-type]


def test_names_are_found_however_they_are_written() -> None:
    assert device("p100") is device("P100")
    assert device("A100 80") is device("a100-80") is not device("a100")
    assert device("CPU Xeon-Silver") is device("cpu_xeon_silver")
    with pytest.raises(ValueError, match="did you mean cpu_amd_7513"):
        device("amd 7513")
    with pytest.raises(ValueError, match="expected the name"):
        device(device("cpu"))  # type: ignore[arg-type]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_gpus_agree_with_the_kernels_table_of_cards(card: object) -> None:
    """Two tables of the same data sheets: units, clock and bandwidth (a card's A100 is the one of 80 GB)."""
    known = next(c for c in CARDS if c is card)
    spec = device({"A100": "a100-80"}.get(known.name, known.name))
    assert spec.num_units == known.multiprocessors
    clock = known.gigahertz * 1e9
    assert spec.instructions_s == pytest.approx(known.multiprocessors * ISSUE_SLOTS * clock)
    assert spec.bandwidth_bytes_s == pytest.approx(1e12 * known.terabytes_per_s, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "units", "lanes", "gigahertz", "dtype"),
    [
        ("a100", 108, 1024, 1.41, "float16"),  # fused multiply-adds a clock and multiprocessor
        ("a100", 108, 64, 1.41, "float32"),
        ("rtx2080", 68, 256, 1.545, "float16"),
        ("rtx3080", 68, 256, 1.71, "float16"),
        ("v100", 80, 512, 1.53, "float16"),
        ("P100", 56, 64, 1.48, "float32"),
        ("a40", 84, 512, 1.74, "float16"),
        ("a6000", 84, 512, 1.8, "float16"),
        ("rtx4090", 128, 256, 2.52, "float16"),
    ],
)
def test_peaks_are_units_times_lanes_times_clock(
    name: str, units: int, lanes: int, gigahertz: float, dtype: str
) -> None:
    spec = device(name)
    assert spec.num_units == units
    assert spec.peak(dtype) == pytest.approx(2 * units * lanes * gigahertz * 1e9, rel=0.01)


def test_ridges_are_those_of_the_literature() -> None:
    """FLOP per byte at which a device turns from memory-bound to compute-bound: 200 on an A100-40, 206 on an H200."""
    assert device("a100").peak("bfloat16") / device("a100").bandwidth_bytes_s == pytest.approx(
        200, rel=0.01
    )
    assert device("h200").peak("bfloat16") / device("h200").bandwidth_bytes_s == pytest.approx(
        206, rel=0.01
    )


@pytest.mark.parametrize("name", ["rtx2080", "v100", "P100"])
def test_dtypes_without_units_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected a dtype in float32, float16"):
        device(name).peak("bfloat16")


def test_a_changed_copy_keeps_the_checks() -> None:
    with pytest.raises(ValueError, match="num_units above 0"):
        replace(device("cpu"), num_units=0)
