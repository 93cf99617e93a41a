"""The measured machine: exact arithmetic on made-up rates, and one real measurement held to what any machine can do."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from small_run import lend_tokens
from test_energy import zone

import experiments.roofline.__main__ as roofline_experiment
import nas.deploy.machine as machine_module
from experiments.roofline.splits import analytic, random_splits
from nas.deploy.machine import cache_sizes, effective_cache, machine_of, measure_machine
from nas.deploy.machine_gauges import least_disturbed
from nas.deploy.machine_products import line
from nas.deploy.machine_table import machine_table
from nas.deploy.profile import profile_architectures
from nas.deploy.runtime import Runtime
from search_spaces import Workload, preset
from surrogates import DeviceSpec, LatencySurrogate, latencies_ms, mape, operators
from surrogates.mean import roofline_coefficients
from surrogates.roofline import feature_names

MIB = 2**20
SPACE, DECODE = preset("tiny"), Workload("decode", 1, 128)


def made_up(**changed: Any) -> DeviceSpec:
    figures: dict[str, Any] = {"sparse_s": {"n:m": (1e-4, 2e-9), "block": (2e-5, 0.0)}}
    figures |= changed
    given = [name for name, value in figures.items() if value is not None]
    source = dict.fromkeys(["peak_flops", "bandwidth_bytes_s", "op_overhead_s", *given], "made up")
    return DeviceSpec("made-up", {"float32": 1e11}, 1e10, 2e-6, source=source, **figures)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[DeviceSpec, Path]:
    powercap = tmp_path_factory.mktemp("powercap")
    zone(powercap, "intel-rapl:0", "package-0", 5, limit_w=65)
    return measure_machine(Runtime("cpu", "float32", 1), powercap=powercap), powercap


def test_every_figure_of_this_machine_is_plausible_and_says_where_it_is_from(
    measured: tuple[DeviceSpec, Path],
) -> None:
    spec, powercap = measured
    assert set(spec.peak_flops) == {"float32", "bfloat16"}
    assert all(1e8 < peak < 1e14 for peak in spec.peak_flops.values())
    assert 1e8 < spec.bandwidth_bytes_s < 2e12
    assert 1e-7 < spec.op_overhead_s < 1e-3
    if spec.cache_bandwidth_bytes_s is not None:
        assert spec.cache_bandwidth_bytes_s > spec.bandwidth_bytes_s
        assert spec.cache_bytes == spec.on_chip_bytes
    assert spec.power_w == 65
    assert str(powercap) in spec.source["power_w"]
    assert set(spec.sparse_s or {}) == {"n:m", "unstructured", "block", "vector"}
    # the only pattern whose dense weight is rebuilt for every token
    assert spec.sparse_seconds("n:m", 2**20) > spec.sparse_seconds("vector", 2**20)
    assert all(text.startswith(("measured: ", "read: ")) for text in spec.source.values())
    assert spec.instructions_s is None


def test_a_machine_survives_json(measured: tuple[DeviceSpec, Path]) -> None:
    spec, _ = measured
    assert DeviceSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_a_machine_is_measured_once_for_its_device_and_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Runtime] = []

    def measure(runtime: Runtime) -> DeviceSpec:
        taken.append(runtime)
        return made_up()

    monkeypatch.setattr(machine_module, "measure_machine", measure)
    one = Runtime("cpu", "float32", 1)
    assert machine_of(tmp_path, one) == machine_of(tmp_path, one) == made_up()
    assert taken == [one]
    machine_of(tmp_path, Runtime("cpu", "float32", 2))  # other threads have other rates
    assert len(taken) == 2
    stored = json.loads((tmp_path / "machine.json").read_text())
    assert stored["runtime"]["threads"] == 2
    assert {"date", "device", "versions"} <= set(stored)
    (tmp_path / "machine.json").write_text("{}")
    with pytest.raises(ValueError, match=r"expected a measured machine in .*delete the file"):
        machine_of(tmp_path, one)
    machine_of(None, one)


# --- arithmetic


def test_the_cache_ends_where_sets_are_read_like_memory() -> None:
    rates = {8 * MIB: 50e9, 16 * MIB: 52e9, 32 * MIB: 46e9, 64 * MIB: 21e9, 128 * MIB: 20e9}
    assert effective_cache(rates, 20e9) == (32 * MIB, 50e9)
    # nothing beyond memory, or nothing measured: no cache is made up
    assert effective_cache({8 * MIB: 21e9, 16 * MIB: 20e9}, 20e9) is None
    assert effective_cache({}, 20e9) is None


def test_the_least_disturbed_round_counts_and_a_busy_machine_is_told() -> None:
    rounds = iter([3.0, 1.0, 1.1])
    steady = {"steady": 5.0, "also": 6.0}
    gauges = [lambda: {"disturbed": next(rounds)}, lambda: steady]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert least_disturbed(gauges) == {"disturbed": 1.0, "steady": 5.0, "also": 6.0}
    slow = iter([2.0, 4.0])
    with pytest.warns(UserWarning, match=r"rounds that differ by a factor of 2.00"):
        assert least_disturbed([lambda: {"one": next(slow)}], rounds=2) == {"one": 2.0}


def test_cache_sizes_are_read_by_level(tmp_path: Path) -> None:
    for index, kind, level, size in (
        (0, "Data", 1, "48K"),
        (1, "Instruction", 1, "64K"),
        (3, "Unified", 3, "30M"),
    ):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in (("type", kind), ("level", str(level)), ("size", size)):
            (folder / name).write_text(text + "\n")
    (tmp_path / "index9").mkdir()  # without files, as some virtual machines have it
    assert cache_sizes(tmp_path) == {1: 48 * 2**10, 3: 30 * MIB}
    assert cache_sizes(tmp_path / "absent") == {}


def test_a_line_of_products_has_no_negative_part() -> None:
    weights = np.array([1e4, 6e4, 2e5])
    assert line(weights, 3e-5 + 2e-9 * weights) == pytest.approx((3e-5, 2e-9))
    per_product, per_weight = line(weights, 1e-4 - 2e-10 * weights)
    assert per_product > 0
    assert per_weight == 0


def test_sparse_products_are_added_to_the_roofline() -> None:
    """Against the sum over the operators of one architecture, written out."""
    plain, known = made_up(sparse_s=None), made_up()
    for architecture in profile_architectures(SPACE, 6, seed=1):
        extra = 0.0
        for op in operators(architecture, SPACE.family, DECODE):
            weights = op.dense_flops / 2  # one token
            extra += {"n:m": 1e-4 + 2e-9 * weights, "block": 2e-5}.get(op.kind, 0.0)
        before, after = (
            latencies_ms([architecture], SPACE.family, s, DECODE)[0] for s in (plain, known)
        )
        assert after - before == pytest.approx(1e3 * extra, abs=1e-9)


def test_the_surrogates_reference_knows_what_sparse_products_cost() -> None:
    names = feature_names()
    found = dict(zip(names, roofline_coefficients(made_up(), "float32", tokens=4), strict=True))
    assert found["n:m.launches"] == pytest.approx(1e3 * (2e-6 + 1e-4))
    assert found["n:m.dense_flops"] == pytest.approx(1e3 * 2e-9 / (2 * 4))
    assert found["dense.launches"] == pytest.approx(1e3 * 2e-6)
    assert found["vector.launches"] == pytest.approx(1e3 * 2e-6)


def test_a_measured_reference_counts_more_and_is_kept_with_the_surrogate(tmp_path: Path) -> None:
    """On latencies of which a machine's figures are right up to their scale, they are worth as much as many records."""
    architectures = profile_architectures(SPACE, 40, seed=0)
    truth = 1.3 * latencies_ms(architectures, SPACE.family, made_up(), DECODE)
    noisy = truth * np.exp(np.random.default_rng(0).normal(0.0, 0.1, len(truth)))
    errors = {}
    for spec in (made_up(), made_up(sparse_s=None)):
        surrogate = LatencySurrogate(SPACE.family, DECODE, reference=spec)
        surrogate.fit(architectures[:16], noisy[:16])
        errors[spec.sparse_s is None] = mape(
            surrogate.predict(architectures[16:]).mean_n, truth[16:]
        )
        surrogate.save(tmp_path / "surrogate.npz")
        loaded = LatencySurrogate.load(tmp_path / "surrogate.npz")
        assert np.array_equal(
            loaded.predict(architectures).mean_n, surrogate.predict(architectures).mean_n
        )
        assert loaded.cross_validate(4) == surrogate.cross_validate(4)
    assert errors[False] < 0.8 * errors[True]


@pytest.mark.parametrize(
    "wrong",
    [
        {"n:m": (1.0,)},
        {"n:m": (-1.0, 0.0)},
        {"2:4": (0.0, 0.0)},
        {"block": (True, 0.0)},
        [1.0, 2.0],
    ],
)
def test_wrong_costs_of_products_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="expected sparse_s of"):
        made_up(sparse_s=wrong)


def test_the_table_says_what_is_not_known() -> None:
    console = Console(width=200, record=True)
    console.print(machine_table(made_up()))
    text = console.export_text()
    assert "100 GFLOP/s" in text
    assert "100 us + 2.00 ns a weight" in text
    assert "power limit" in text
    assert "not known" in text


# --- the experiment


def test_splits_judge_only_models_that_were_not_fitted() -> None:
    """On latencies that are a roofline's own, the analytic scores are perfect and every split is nearly so."""
    architectures = profile_architectures(SPACE, 24, seed=0)
    spec = made_up()
    truth = latencies_ms(architectures, SPACE.family, spec, DECODE)
    found = analytic(architectures, SPACE.family, DECODE, spec, "float32", 2.0 * truth)
    assert found["kendall_tau"] == 1.0
    assert (found["bias"], found["mape"]) == pytest.approx((0.5, 0.5))
    rounds = np.stack([truth, 1.01 * truth], axis=1)
    options: dict[str, Any] = {"splits": 2, "seed": 0}
    splits = random_splits(
        architectures, SPACE.family, DECODE, spec, "float32", rounds, fitted=16, **options
    )
    assert len(splits) == 2
    assert max(s["mape"] for s in splits) < 0.08
    with pytest.raises(ValueError, match="expected two architectures or more beside the 23 fitted"):
        random_splits(
            architectures, SPACE.family, DECODE, spec, "float32", rounds, fitted=23, **options
        )


@pytest.mark.slow
def test_the_experiment_writes_where_results_are_wanted(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lend_tokens(tmp_path_factory, tmp_path / "out")
    monkeypatch.setattr(machine_module, "measure_machine", lambda runtime: made_up())
    recipe = roofline_experiment.Recipe(
        architectures=16,
        rounds=1,
        fitted=12,
        splits=1,
        threads=1,
        out=tmp_path / "out",
        results=tmp_path,
    )
    values = roofline_experiment.main(recipe)
    [folder] = tmp_path.glob("*/roofline")
    stored = json.loads((folder / "result.json").read_text())
    assert stored["values"]["machine"] == made_up().to_json()
    assert len(stored["values"]["analytic"]["predicted_ms"]) == 16
    assert stored["values"]["models"] == values["models"]
    assert (folder / "roofline.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert str(folder) in printed.replace("\n", "")
    assert "decode[batch=1,context=128]" in printed
    assert "Next: " in printed


def test_the_experiment_refuses_settings_that_judge_nothing(tmp_path: Path) -> None:
    for wrong, message in (
        ({"fitted": 11}, "fitted of 12"),
        ({"architectures": 21}, "of 22 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            roofline_experiment.main(roofline_experiment.Recipe(out=tmp_path, **wrong))  # type: ignore[arg-type]


@pytest.mark.gpu
def test_a_gpu_is_measured() -> None:
    spec = measure_machine(Runtime("cuda"))
    card = torch.cuda.get_device_properties()
    assert spec.num_units == card.multi_processor_count
    assert spec.peak("bfloat16") > spec.peak("float32") > 1e11
    assert 1e10 < spec.bandwidth_bytes_s < 2e13
