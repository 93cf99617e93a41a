"""Energy: folders laid out like powercap, a module that answers like pynvml, and a clock that only calls move, so that joules are exact."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_run import lend_tokens

import nas.deploy.energy as energy_module
import nas.deploy.profile as profile_module
import nas.deploy.verify as verify_module
from nas.deploy.energy import EnergyMeasurement, measure_call, measure_energy
from nas.deploy.energy_counters import NvmlCounter, RaplCounter, find_counter, power_limit
from nas.deploy.energy_profile import read_energy_records
from nas.deploy.materialize import materialize
from nas.deploy.profile import profile
from nas.deploy.runtime import Runtime
from nas.deploy.verify import verify
from nas.model import Supernet, extract
from nas.objectives import Objective
from nas.search_study import search
from nas.training import train_supernet
from search_spaces import Family, SearchSpace, Workload, costs, preset

RANGE_UJ = 1_000_000
SPACE = SearchSpace(
    name="toy",
    family=Family(vocab_size=64, context_length=32, head_dim=8),
    embed_dims=(16,),
    depths=(1,),
    num_heads=(2,),
    ffn_ratios=(2.0,),
    biases=(False,),
)


def zone(root: Path, name: str, label: str, uj: int = 0, limit_w: int | None = None) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{label}\n")
    (folder / "energy_uj").write_text(f"{uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    if limit_w is not None:
        (folder / "constraint_0_power_limit_uw").write_text(f"{limit_w * 10**6}\n")
    return folder


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two packages, with everything that counts one of them twice."""
    root = tmp_path / "powercap"
    zone(root, "intel-rapl", "control")
    zone(root, "intel-rapl:0", "package-0", 900_000, limit_w=100)
    zone(root, "intel-rapl:0:0", "core", 500_000)
    zone(root, "intel-rapl:0:1", "dram", 100_000)
    zone(root, "intel-rapl:1", "package-1", 10_000, limit_w=150)
    zone(root, "intel-rapl:2", "psys", 400_000, limit_w=300)
    zone(root, "intel-rapl-mmio:0", "package-0", 900_000)
    return root


def test_packages_are_summed_and_nothing_is_counted_twice(powercap: Path) -> None:
    counter = find_counter("cpu", powercap=powercap)
    assert counter.read() == (900_000, 10_000)
    before = counter.read()
    for name, uj in (
        ("intel-rapl:0", 950_000),
        ("intel-rapl:0:0", 999_000),
        ("intel-rapl:1", 40_000),
    ):
        (powercap / name / "energy_uj").write_text(str(uj))
    assert counter.joules(before, counter.read()) == pytest.approx(0.05 + 0.03)
    watts, source = power_limit("cpu", powercap) or (math.nan, "")
    assert watts == 250
    assert str(powercap) in source


def test_a_counter_that_wraps_around_is_followed(powercap: Path) -> None:
    counter = find_counter("cpu", powercap=powercap)
    before = counter.read()
    (powercap / "intel-rapl:0" / "energy_uj").write_text("20000")  # 100 000 to the range's end
    assert counter.joules(before, counter.read()) == pytest.approx(0.12)


def test_why_there_is_no_counter_is_said(tmp_path: Path, powercap: Path) -> None:
    with pytest.raises(
        ValueError, match=r"got none: rapl: no .*absent .*virtual machine.*nvml counts GPUs"
    ):
        find_counter("cpu", powercap=tmp_path / "absent")
    empty = tmp_path / "empty"
    zone(empty, "dtpm", "dtpm")
    with pytest.raises(ValueError, match="no CPU package among the zones"):
        find_counter("cpu", powercap=empty)
    assert power_limit("cpu", empty) is None
    (powercap / "intel-rapl:1" / "energy_uj").write_text("many")
    with pytest.raises(ValueError, match=r"rapl: .*energy_uj cannot be read"):
        find_counter("cpu", powercap=powercap)
    with pytest.raises(ValueError, match="expected device 'cpu' or 'cuda', got 'tpu'"):
        find_counter("tpu")


def test_a_counter_that_only_root_reads_names_the_remedy(
    powercap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.read_text

    def refuse(path: Path, *args: Any, **kwargs: Any) -> str:
        if path.name == "energy_uj":  # the mode alone does not stop root, who may run the tests
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ValueError, match=r"rapl: no permission to read .*; as root: chmod a\+r"):
        find_counter("cpu", powercap=powercap)


# --- NVML


class NVMLError(Exception):
    pass


def fake_nvml(**changed: Any) -> SimpleNamespace:
    """Answers of a board that has used 5 kJ since its driver was loaded, at 1.5 GHz and 40 degrees."""

    def unsupported(*_: Any) -> int:
        raise NVMLError("Not Supported")

    answers = {
        "NVMLError": NVMLError,
        "NVML_CLOCK_SM": 1,
        "NVML_CLOCK_MEM": 2,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByIndex": lambda index: f"board {index}",
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: 5_000_000,
        "nvmlDeviceGetClockInfo": lambda handle, kind: 1500 if kind == 1 else unsupported(),
        "nvmlDeviceGetTemperature": lambda handle, sensor: 40,
    }
    return SimpleNamespace(
        **answers | {k: unsupported if v is None else v for k, v in changed.items()}
    )


def test_a_gpu_counts_millijoules_and_tells_clocks_and_temperature() -> None:
    counter = find_counter("cuda", nvml=fake_nvml())
    assert (counter.name, counter.read()) == ("nvml", (5_000_000,))
    assert counter.joules((5_000_000,), (5_002_500,)) == 2.5
    # the memory clock is not supported there, and so not told
    assert counter.state() == {"clock_mhz": 1500.0, "temperature_c": 40.0}


@pytest.mark.parametrize("missing", ["nvmlInit", "nvmlDeviceGetTotalEnergyConsumption"])
def test_a_gpu_without_driver_or_counter_is_said(missing: str) -> None:
    with pytest.raises(
        ValueError, match=r"got none: nvml: Not Supported .*Volta.*rapl counts CPUs"
    ):
        find_counter("cuda", nvml=fake_nvml(**{missing: None}))


# --- windows


@dataclass
class Bench:
    """A device that draws 10 W idle and 30 W more while it calculates; a call takes 20 ms of a clock that nothing else moves."""

    now: float = 0.0
    joules: float = 900.0
    calls: int = 0
    steps_of_s: float = 0.0
    seen: list[float] = field(default_factory=list)

    def call(self) -> None:
        self.calls += 1
        self._pass(0.02, 40.0)

    def sleep(self, seconds: float) -> None:
        self._pass(seconds, 10.0)

    def clock(self) -> float:
        return self.now

    def _pass(self, seconds: float, watts: float) -> None:
        self.now += seconds
        self.joules += seconds * watts

    def counter(self) -> NvmlCounter:
        nvml = fake_nvml(
            nvmlDeviceGetTotalEnergyConsumption=lambda handle: round(1e3 * self.joules)
        )
        return NvmlCounter("board", nvml)

    def measure(self, **options: Any) -> EnergyMeasurement:
        return measure_call(
            self.call, "cpu", self.counter(), clock=self.clock, sleep=self.sleep, **options
        )


def test_energy_is_the_counter_over_the_calls_and_idle_power_is_told_apart() -> None:
    bench = Bench()
    found = bench.measure(window_s=3.0, idle_s=2.0)
    assert found.joules == pytest.approx(0.02 * 40.0, rel=1e-4)
    assert found.net_joules == pytest.approx(0.02 * 30.0, rel=1e-3)
    assert (found.idle_watts, found.watts) == pytest.approx((10.0, 40.0), rel=1e-3)
    assert found.window_s >= 3.0
    assert found.window_s == pytest.approx(0.02 * found.repetitions)
    assert found.repetitions == bench.calls - 3  # after three that warm up
    assert found.idle_s == 2.0
    assert found.counter == "nvml"
    assert found.before == found.after == {"clock_mhz": 1500.0, "temperature_c": 40.0}
    assert json.loads(json.dumps(found.to_json())) == found.to_json()


def test_a_window_of_too_few_steps_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"expected window_s of 1 s or more, got 0.5: nvml moves every 0.1 s"
    ):
        Bench().measure(window_s=0.5, idle_s=2.0)
    with pytest.raises(ValueError, match="expected idle_s of 1 s or more, got nan"):
        Bench().measure(window_s=1.0, idle_s=math.nan)


def test_a_counter_that_stands_still_is_refused() -> None:
    counter = NvmlCounter("board", fake_nvml())
    bench = Bench()
    with pytest.raises(ValueError, match=r"expected nvml to move within 2(\.\d+)? s, got 0 J"):
        measure_call(bench.call, "cpu", counter, window_s=2.0, clock=bench.clock, sleep=bench.sleep)


# --- models


def counting(powercap: Path) -> Callable[[str], RaplCounter]:
    """Real files whose first package advances at every reading, as if time had passed."""
    path = powercap / "intel-rapl:0" / "energy_uj"

    class Advancing(RaplCounter):
        def read(self) -> tuple[int, ...]:
            path.write_text(str((int(path.read_text()) + 70_000) % RANGE_UJ))
            return super().read()

    plain = find_counter("cpu", powercap=powercap)
    assert isinstance(plain, RaplCounter)
    return lambda device: Advancing(plain.files, plain.ranges_uj)


def test_energy_of_a_model(powercap: Path) -> None:
    model = extract(Supernet(SPACE, 0), SPACE.largest)
    counter = counting(powercap)("cpu")
    found = measure_energy(
        model, "energy_j[batch=2,context=8]", Runtime(), window_s=0.05, idle_s=0.02, counter=counter
    )
    assert found.joules * found.repetitions == pytest.approx(0.07)  # one step of the fake counter
    assert found.idle_watts == pytest.approx(0.07 / found.idle_s)
    with pytest.raises(ValueError, match="expected a workload such as energy_j"):
        measure_energy(model, "perplexity", counter=counter)
    with pytest.raises(ValueError, match="expected a workload of at most 32 tokens"):
        measure_energy(model, Workload("decode", 1, 32), Runtime(), counter=counter)


def test_energy_goes_the_way_of_latency(
    powercap: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Profile, surrogate, search, claim and verification, on joules that follow from the architecture."""
    counter = counting(powercap)
    for module in (profile_module, verify_module, energy_module):
        monkeypatch.setattr(module, "find_counter", counter)

    def joules(model: Any, workload: Workload, *_: Any, **__: Any) -> EnergyMeasurement:
        value = 1e-9 * costs(model.architecture, model.family, 4).weight_bytes
        return EnergyMeasurement(
            value, value, 1.0, 2.0, 3.0, 2.0, 100, "rapl", {}, {}, "2026-01-01"
        )

    for module in (verify_module, energy_module):
        monkeypatch.setattr(module, "measure_energy", joules)
    monkeypatch.setattr("nas.deploy.energy_profile.measure_energy", joules)
    name = "energy_j[batch=1,context=128]"
    space = preset("tiny")
    lend_tokens(tmp_path_factory, tmp_path)
    supernet = train_supernet(space, out=tmp_path, progress=False)
    options: dict[str, Any] = {"num_architectures": 16, "rounds": 1, "threads": 1}
    make = functools.partial(
        profile, supernet, workloads=[name], out=tmp_path, progress=False, **options
    )
    device = make()
    records = read_energy_records(tmp_path / "energy.jsonl")
    assert len(records) == 16
    assert {"idle_watts", "window_s", "repetitions", "counter", "date", "versions"} <= set(
        records[0]
    )
    again = make()  # nothing is measured twice
    assert len(read_energy_records(tmp_path / "energy.jsonl")) == 16
    assert again.fingerprint == device.fingerprint
    workload = Workload("decode", 1, 128)
    assert device.energy_quality[str(workload)]["kendall_tau"] > 0.8
    objective = Objective.parse(name)
    largest = device.surrogate(objective).predict([space.largest])
    truth = 1e-9 * costs(space.largest, space.family, 4).weight_bytes
    assert largest.mean_n[0] == pytest.approx(truth, rel=0.25)

    study = search(
        space, ["perplexity", name], supernet=supernet, device=device, n_trials=4,
        sampler="random", num_tokens=512, progress=False,
    )  # fmt: skip
    claim = study.evaluations[0].provenance["claims"][name]
    assert claim["source"] == "surrogate"
    assert claim["low"] <= claim["mean"] <= claim["high"]
    winners = materialize(study.front, supernet, max_winners=2)
    report = verify(winners, rounds=1, compile=False, progress=False)
    for winner, result in zip(winners, report.results["winners"], strict=True):
        expected = 1e-9 * costs(winner.architecture, space.family, 4).weight_bytes
        assert result["measured"][name] == pytest.approx(expected)
    assert name in report.results["baseline"]["measured"]
    assert {check.name for check in report.checks} == {"perplexity", name}

    path = tmp_path / "energy.jsonl"
    path.write_text(path.read_text().replace('"joules":', '"joules":-', 1))
    with pytest.raises(ValueError, match="expected an energy record in line 1"):
        make()


@pytest.mark.gpu
def test_energy_on_a_gpu() -> None:
    model = extract(Supernet(SPACE, 0), SPACE.largest, dtype=torch.bfloat16).to("cuda")
    found = measure_energy(model, "energy_j[batch=1,context=8]", "cuda", window_s=2.0)
    assert 0 < found.joules < 10
    assert 1 < found.idle_watts <= found.watts * 1.5
